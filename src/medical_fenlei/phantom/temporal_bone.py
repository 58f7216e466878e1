"""One temporal bone with its disease, painted in the ear frame (u outwards, y to the back, z up; mm).

Each voxel is noted as part of the structure that is painted there last. Content and disease change no structure: a cavity full
of fluid is a cavity, a mass belongs to what it has grown into.
"""
import numpy as np
from scipy.special import ndtri

from medical_fenlei.phantom.anatomy import TYMPANUM, VESTIBULE, EarAnatomy
from medical_fenlei.phantom.canvas import AIR, Array, Canvas, Shape, Slab, capsule, ellipsoid, polyline, ring, union, vector
from medical_fenlei.phantom.disease import EarChange, Region
from medical_fenlei.phantom.texture import honeycomb, smooth
from medical_fenlei.vocabulary import Structure

OTIC_CAPSULE_HU = 1950.0
CELL_BOX = (np.array([36.0, -12.0, -30.0]), np.array([66.0, 31.0, 14.0]))
"""Corners of the box that holds the air cells."""


def paint_ear(canvas: Canvas, ear: EarAnatomy, change: EarChange, *, bone_hu: float, down: Array, label: int) -> None:
    """Paint a temporal bone on a canvas in the ear frame.

    down (3,): direction of gravity in that frame; label: bit of the lesion mask, 0 for none.
    """
    bone = _Bone(canvas, ear, change, bone_hu, down, label)
    bone.solid()
    bone.cells()
    bone.inner_ear()
    bone.canal()
    bone.spaces()
    bone.masses()
    bone.membrane_and_ossicles()
    bone.other_findings()


class _Bone:
    """The painting of one temporal bone, structure by structure; later structures replace earlier ones."""

    def __init__(self, canvas: Canvas, ear: EarAnatomy, change: EarChange, bone_hu: float, down: Array, label: int) -> None:
        self.canvas, self.ear, self.change, self.bone_hu, self.down, self.label = canvas, ear, change, bone_hu, down, label
        self.mastoid = ellipsoid((52, 13, -6), (11.5, 15.5, 23), turn_deg=-12)

    # ------------------------------------------------------------------ bone

    def solid(self) -> None:
        """Mastoid, petrous pyramid, tympanic bone, vessels and the joint of the jaw."""
        paint, hu = self.canvas.paint, self.bone_hu
        for at, u, y, z in self.canvas.slabs(self.mastoid.low, self.mastoid.high):
            self.canvas.blend(at, self.canvas.coverage(self._mastoid_depth(u, y, z)), hu)
        paint(capsule((45, 3, 0), (15, -26, -2), 10.5, 7.0), hu)                      # petrous pyramid
        paint(capsule((45, -0.5, -1), (59, 0.5, -0.5), 7.0), hu)                      # tympanic bone
        paint(capsule((48, -6, 2), (60, -6, 2), 4.5), hu)                             # root of the zygoma
        paint(ellipsoid((52, -14, -7), (8.5, 6.0, 7.5)), 50)                          # joint of the jaw and its head
        paint(ellipsoid((52, -14.5, -10), (8, 3.8, 6.5)), hu)
        paint(ellipsoid((52, -14.5, -10.5), (6.5, 2.2, 5.0)), 400)
        paint(capsule((20, -20, 0), (28, -13, 0), 3.5, 4.5), 450 + 0.25 * hu)         # marrow of the apex
        s = self.ear.sigmoid
        for piece in polyline([(53, 24 - s, 9), (52, 22 - s, -8), (43, 16, -18), (36, 9, -17)], 4.3):
            paint(piece, 55, structure=Structure.SINUS)
        bulb = ellipsoid((34, 6, -13 + self.ear.jugular * 0.5), (4.5, 4.5, 6 + self.ear.jugular))
        paint(bulb, 55, structure=Structure.SINUS)
        paint(capsule((34, 6, -14), (33, 2, -40), 4.2), 55)
        for piece in polyline([(34, -9, -40), (34, -9, -10), (30, -13, -6), (19, -25, -4)], 2.7):
            paint(piece, 60)                                                          # carotid canal
        paint(ellipsoid((79, 11, 2), (2.2, 12, 24), turn_deg=-25), 10, opacity=0.8)   # auricle

    def _mastoid_depth(self, u: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm) to the surface of the mastoid below the tegmen."""
        top = z - np.float32(11) + np.abs(u - 50) * np.float32(0.1)                   # the tegmen
        return np.maximum(self.mastoid.distance(u, y, z), top)

    def _noise(self, u: Array, y: Array, z: Array, scale: float, nth: float) -> Array:
        """Smooth noise of this ear; `nth` selects an independent part of the texture."""
        return smooth(u, y, z, scale_mm=scale, turn=self.ear.texture_turn, shift=self.ear.texture_shift + nth)

    # ------------------------------------------------------------- air cells

    def cells(self) -> None:
        """Honeycomb of air cells around the antrum, and marrow or ivory bone beyond."""
        canvas, ear, change = self.canvas, self.ear, self.change
        aeration = ear.aeration * (1 - change.cell_loss)
        reach = np.float32(41 * aeration**0.55)
        ivory = np.clip(1 - ear.marrow * (1 - change.sclerosis), 0, 1)
        for at, u, y, z in canvas.slabs(*CELL_BOX):
            depth = self._mastoid_depth(u, y, z)
            if (depth > 0).all():
                continue
            wobble = self._noise(u, y, z, 9.0, 0.11)
            wall, own = honeycomb(u, y, z, cell_mm=ear.cell_mm, turn=ear.texture_turn, shift=ear.texture_shift)
            trabecula = self.bone_hu * ivory + (1 - ivory) * (220 + 380 * np.clip(1.1 - wall, 0, 1))
            canvas.blend(at, canvas.coverage(depth + 1.6), trabecula.astype(np.float32))
            far = np.sqrt((u - 45) ** 2 + (y - 8) ** 2 + ((z - 6) * np.float32(0.75)) ** 2) + 3 * wobble
            inside = np.maximum(far - reach, depth + np.float32(1.1 + 0.6 * ivory))
            # a plate of bone remains around the canal and the joint
            inside = np.maximum(inside, np.float32(6.2) - np.sqrt((y * y) + (z + 1) ** 2) - np.clip(44 - u, 0, 9))
            within = canvas.coverage(inside)
            canvas.assign(at, within, Structure.CELLS)
            share = within * canvas.coverage(np.float32(ear.wall_mm / 2) - wall)
            soft = self._soft(u, y, z, "cells", own=own)
            canvas.blend(at, share, np.float32(AIR) + soft * np.float32(change.fill_hu - AIR))
            self._mark(at, share, soft)

    def _soft(self, u: Array, y: Array, z: Array, region: Region, own: Array | None = None) -> Array:
        """Share of soft tissue or fluid in an air space, 0 to 1: per cell where `own` holds a number of each cell, else in
        patches."""
        change = self.change
        if change.level_mm is not None:
            deep = (u - TYMPANUM[0]) * self.down[0] + y * self.down[1] + z * self.down[2]
            return self.canvas.coverage((np.float32(change.level_mm) - deep).astype(np.float32))
        share = change.fill.get(region, 0.0)
        if share <= 0:
            return np.zeros_like(u)
        if share >= 0.98:
            return np.ones_like(u)
        if own is not None:
            return (own < share).astype(np.float32)
        return self.canvas.coverage((self._noise(u, y, z, 4.0, 0.37) - np.float32(ndtri(share))) * np.float32(1.6))

    def _mark(self, at: Slab, share: Array, soft: Array) -> None:
        """Mark the voxels of an air space that hold soft tissue or fluid as lesion."""
        self.canvas.lesion[at] |= np.uint8(self.label) * ((share > 0.5) & (soft > 0.5))

    # ---------------------------------------------------- inner ear and nerve

    def inner_ear(self) -> None:
        """Otic capsule, cochlea, vestibule, semicircular canals, internal auditory canal and facial nerve."""
        paint = self.canvas.paint
        capsule_of_bone = union(ellipsoid((34.3, -5.8, -1), (5.0, 4.6, 4.6)), ellipsoid((36.5, 1.5, 2.5), (4.0, 6.5, 6.0)))
        paint(capsule_of_bone, OTIC_CAPSULE_HU, structure=Structure.OTIC_CAPSULE)
        axis = (0.62, -0.75, 0.2)                                                     # axis of the cochlea, base to apex
        for along, radius, tube in ((0.0, 2.7, 0.85), (1.2, 1.7, 0.7), (2.2, 0.7, 0.6)):
            centre = (33.6 + along * axis[0], -5.2 + along * axis[1], -1.2 + along * axis[2])
            paint(ring(centre, axis, radius, tube), 30, structure=Structure.OTIC_CAPSULE)
        paint(ellipsoid(tuple(VESTIBULE), (1.5, 2.4, 2.2)), 20, structure=Structure.OTIC_CAPSULE)        # vestibule
        for centre, normal in (((39.0, 4.6, 3.0), (0.0, 0.3, 1.0)), ((37.2, 0.8, 6.2), (0.75, 0.66, 0.0)),
                               ((37.0, 7.0, 2.4), (0.7, -0.7, 0.0))):
            paint(ring(centre, normal, 2.9, 1.5), OTIC_CAPSULE_HU, structure=Structure.OTIC_CAPSULE)
            paint(ring(centre, normal, 2.9, 0.65), 20, structure=Structure.OTIC_CAPSULE)
        internal_canal = capsule((21, -7, 3), (33.2, -2.6, 2.6), 2.4, 2.0)            # internal auditory canal
        paint(internal_canal, 30, structure=Structure.OTHER)
        for piece in polyline([(34, -3, 4), (40.0, -4, 4), (41.6, 3.6, 1.8), (44.0, 6.4, -1), (44.5, 7, -22)], 0.75):
            paint(piece, 60, structure=Structure.FACIAL_CANAL)

    # --------------------------------------------------------------- canal

    def canal(self) -> None:
        """Ear canal from the tympanic membrane to the skin, with wax."""
        canvas, ear, change = self.canvas, self.ear, self.change
        r, rise = ear.canal_radius, ear.canal_rise
        outer = capsule((59, 0.5, -0.5 + rise * 0.5), (82, 3.5, rise), r, r + 0.6)
        bony = capsule((46.8, 0.0, -1.0), (59, 0.5, -0.5 + rise * 0.5), 4.3 if r > 4 else r + 0.2, r)
        if change.atresia:
            canvas.paint(capsule((64, 1, 0), (82, 3, 1), r * 0.6), AIR, structure=Structure.CANAL)
            return
        canvas.paint(outer, AIR, structure=Structure.CANAL)
        canvas.paint(bony, AIR, structure=Structure.CANAL)
        if ear.cerumen:
            canvas.paint(ellipsoid((56, 0.4, -0.6), (7 * ear.cerumen, r, r * (0.4 + 0.6 * ear.cerumen))), 20)

    # ------------------------------------------------------ middle-ear spaces

    def spaces(self) -> None:
        """Attic, tympanic cavity, aditus and antrum, with their contents."""
        g, small = self.change.antrum_scale, 0.55 if self.change.atresia else 1.0
        size = 0.8 + 0.5 * self.ear.aeration                                          # a small antrum in a small mastoid
        attic = ellipsoid((42.9, 1.2, 4.9), (2.9 * small, 5.6 * small, 3.4))
        middle = ellipsoid((42.7, -0.4, 0.0), (2.1 * small, 7.0 * small, 4.8))
        lower = ellipsoid((42.0, -1.0, -4.4), (2.1 * small, 6.2 * small, 3.1))
        tube = capsule((41.5, -6, -1.5), (35, -16, -6), 1.5, 0.9)
        antrum = union(capsule((43.2, 4.5, 5.6), (44.2, 9, 7.2), 2.1 * g),
                       ellipsoid((44.6, 10, 7.0), (3.6 * g * size, 4.8 * g * size, 3.4 * g * size)))
        shapes: tuple[tuple[Region, Shape], ...] = (
            ("antrum", antrum), ("tympanum", union(middle, lower, tube)), ("attic", attic))
        for region, shape in shapes:
            for at, u, y, z in self.canvas.slabs(shape.low, shape.high):
                distance = shape.distance(u, y, z)
                if self.change.rough_mm:
                    distance = distance + np.float32(self.change.rough_mm) * self._noise(u, y, z, 2.2, 0.71)
                share = self.canvas.coverage(distance)
                self.canvas.assign(at, share, Structure.CAVITY)
                soft = self._soft(u, y, z, region)
                self.canvas.blend(at, share, np.float32(AIR) + soft * np.float32(self.change.fill_hu - AIR))
                self._mark(at, share, soft)
        if self.change.scutum > 0:
            left = self.change.scutum
            self.canvas.paint(capsule((46.2, -3, 4.4 + 1.5 * (1 - left)), (46.2, 3, 4.4 + 1.5 * (1 - left)), 0.9 * left), 856)

    def masses(self) -> None:
        """Masses, and a defect of the tegmen."""
        for mass in self.change.masses:
            shape = ellipsoid(mass.centre, mass.radii)
            for at, u, y, z in self.canvas.slabs(shape.low, shape.high):
                if mass.rim:
                    self.canvas.blend(at, self.canvas.coverage(np.abs(shape.distance(u, y, z) - 0.4) - 0.4), self.bone_hu)
                self.canvas.blend(at, self.canvas.coverage(shape.distance(u, y, z)), mass.hu)
            self.canvas.mark(shape, self.label)
        if self.change.tegmen_open:
            self.canvas.paint(ellipsoid((44, 5, 10.2), (2.6, 3.4, 3.0)), 40)

    # ------------------------------------------------ membrane and ossicles

    def membrane_and_ossicles(self) -> None:
        """Tympanic membrane, malleus, incus and stapes."""
        canvas, change = self.canvas, self.change
        if not change.atresia:
            thick = change.membrane_mm
            sheet = ellipsoid((45.2 - change.retraction_mm, -0.2, -0.8), (max(thick, 0.5) / 2 + 0.2, 4.6, 5.0), tilt_deg=18)
            canvas.paint(sheet, 60, opacity=float(np.clip(thick / canvas.edge_mm, 0.15, 1)))
        left = {name: change.ossicles.get(name, 1.0) for name in ("malleus", "incus", "stapes")}
        if left["malleus"] > 0.1:
            m = left["malleus"]
            head, hu = ellipsoid((42.9, -0.9, 4.6), (1.3 * m, 1.3 * m, 1.7 * m)), 1413 * (0.6 + 0.4 * m)
            handle = capsule((43.2, -0.8, 3.5), (43.6, -1.0, -2.5 * m), 0.55)
            canvas.paint(head, hu, structure=Structure.OSSICLES)
            canvas.paint(handle, hu, opacity=0.9, structure=Structure.OSSICLES)
        if left["incus"] > 0.1:
            i = left["incus"]
            body = ellipsoid((43.1, 2.1, 4.8), (1.5 * i, 2.4 * i, 1.7 * i))
            long_crus = capsule((42.8, 2.4, 4.0), (42.0, 2.3, -0.6), 0.55, 0.45)
            canvas.paint(body, 1000 * (0.6 + 0.4 * i), structure=Structure.OSSICLES)
            if i > 0.55:
                canvas.paint(long_crus, 900, opacity=0.9, structure=Structure.OSSICLES)
        if left["stapes"] > 0.4:
            canvas.paint(capsule((42.0, 2.2, -0.6), (39.8, 1.6, 0.6), 0.45), 700, opacity=0.8, structure=Structure.OSSICLES)

    # --------------------------------------------------------- other findings

    def other_findings(self) -> None:
        """Otosclerotic focus, fracture and surgical cavity."""
        canvas, change = self.canvas, self.change
        if change.capsule_spot_hu is not None:
            spot = ellipsoid((38.6, -1.6, 1.4), (1.7, 2.0, 1.8))
            canvas.paint(spot, change.capsule_spot_hu)
            canvas.mark(spot, self.label)
        if change.fracture:
            self._fracture()
        if change.cavity:
            g = change.cavity
            cavity = union(ellipsoid((50, 11, 2), (8.5 * g, 9.5 * g, 9.0 * g)), ellipsoid((46, 6, 4.5), (4.5, 6, 4.2)),
                           capsule((50, 6, 1), (57, 3, 0), 5.0 * g))
            for at, u, y, z in canvas.slabs(cavity.low, cavity.high):
                distance = cavity.distance(u, y, z)
                canvas.blend(at, canvas.coverage(distance - 1.2), 60.0)                  # lining
                canvas.blend(at, canvas.coverage(distance), AIR)
                canvas.assign(at, canvas.coverage(distance), Structure.CAVITY)
            canvas.mark(cavity, self.label)

    def _fracture(self) -> None:
        """A fracture line through the mastoid to the roof of the canal and the tympanic cavity."""
        along = vector([0.35, 0.9, 0.26])
        normal = np.cross(along, vector([0.0, 0.28, -1.0])).astype(np.float32)
        normal /= np.linalg.norm(normal)
        sheet = ellipsoid((51, 7, 3), (13, 15, 13))
        for at, u, y, z in self.canvas.slabs(sheet.low, sheet.high):
            wave = self._noise(u, y, z, 6.0, 0.53) * np.float32(0.5)
            off = np.abs((u - 51) * normal[0] + (y - 7) * normal[1] + (z - 3) * normal[2] + wave) - np.float32(0.35)
            share = self.canvas.coverage(np.maximum(off, sheet.distance(u, y, z)))
            share *= self.canvas.hu[at] > 300
            self.canvas.blend(at, share * np.float32(0.85), 40.0)
            self.canvas.lesion[at] |= np.uint8(self.label) * (share > 0.5)

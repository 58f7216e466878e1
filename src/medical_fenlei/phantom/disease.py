"""What each of the six diagnosis codes changes in one ear, as data; `temporal_bone` paints it.

Positions are in the ear frame (mm): u outwards from the midline, y to the back, z up; the tympanic cavity is centred at (42, 0,
0).
"""
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medical_fenlei.vocabulary import NORMAL

Region = Literal["tympanum", "attic", "antrum", "cells"]
REGIONS: tuple[Region, ...] = ("tympanum", "attic", "antrum", "cells")


@dataclass(frozen=True, kw_only=True)
class Mass:
    """A smooth ellipsoidal mass that replaces the tissue at its position, including bone."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    rim: bool = False
    """Whether a thin shell of bone surrounds it."""


@dataclass(frozen=True, kw_only=True)
class EarChange:
    """The changes of one ear; the defaults are a healthy ear."""

    code: int = 5
    kind: str = "healthy"
    """Name of the disease, or of its form."""

    fill: dict[Region, float] = field(default_factory=dict)
    """Share of each air space filled with soft tissue or fluid, 0 to 1."""

    fill_hu: float = 30.0
    """HU of that soft tissue or fluid."""

    level_mm: float | None = None
    """Fluid level: the depth along gravity, from the tympanic centre, below which the air spaces hold fluid."""

    masses: tuple[Mass, ...] = ()
    ossicles: dict[str, float] = field(default_factory=dict)
    """Remaining share of malleus, incus and stapes, 0 to 1 (default 1)."""

    scutum: float = 1.0
    """Remaining share of the scutum, 0 to 1."""

    antrum_scale: float = 1.0
    """Size of the antrum relative to a healthy one."""

    tegmen_open: bool = False
    """Whether the roof of the middle ear has a defect."""

    rough_mm: float = 0.0
    """Roughness of the walls of the air spaces in mm."""

    membrane_mm: float = 0.2
    """Thickness of the tympanic membrane in mm."""

    retraction_mm: float = 0.0
    """Inward shift of the tympanic membrane in mm."""

    sclerosis: float = 0.0
    """Sclerosis of the bone around the cells, 0 (unchanged) to 1 (ivory)."""

    cell_loss: float = 0.0
    """Lost share of the air cells, 0 to 1."""

    capsule_spot_hu: float | None = None
    """HU of an otosclerotic focus in front of the oval window, if there is one."""

    fracture: bool = False
    """Whether a fracture runs through the mastoid."""

    atresia: bool = False
    """Whether the ear canal is closed."""

    cavity: float = 0.0
    """Size of a surgical cavity, 0 (none) to 1."""


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _healthy(rng: np.random.Generator) -> EarChange:
    stray = _between(rng, 0.0, 0.6) if rng.random() < 0.5 else 0.0            # some healthy ears have filled cells
    return EarChange(fill={"cells": stray}, fill_hu=_between(rng, 10, 80), membrane_mm=_between(rng, 0.15, 0.3))


def _csom(rng: np.random.Generator) -> EarChange:
    return EarChange(
        code=1, kind="csom",
        fill={"tympanum": _between(rng, 0.55, 1.0), "attic": _between(rng, 0.6, 1.0), "antrum": _between(rng, 0.55, 1.0),
              "cells": _between(rng, 0.1, 0.7)},
        fill_hu=float(np.clip(rng.normal(86, 27), 30, 140)), rough_mm=_between(rng, 0.4, 0.9),
        membrane_mm=_between(rng, 0.8, 1.6), retraction_mm=_between(rng, 0.0, 1.5),
        ossicles={"malleus": _between(rng, 0.85, 1), "incus": _between(rng, 0.6, 1), "stapes": _between(rng, 0.5, 1)},
        sclerosis=_between(rng, 0.2, 0.9), cell_loss=_between(rng, 0.0, 0.3),
    )


def _cholesteatoma(rng: np.random.Generator) -> EarChange:
    hu = float(np.clip(rng.normal(43, 24), 0, 100))
    size = _between(rng, 0.85, 1.35)
    masses = [Mass(centre=(44.0, 0.6, 4.4), radii=(2.9 * size, 4.6 * size, 3.4 * size), hu=hu)]      # Prussak's space, attic
    if rng.random() < 0.92:                                                                         # aditus and antrum
        masses.append(Mass(centre=(44.2, 6.4, 6.4), radii=(3.0 * size, 4.2 * size, 3.0 * size), hu=hu))
        masses.append(Mass(centre=(45.0, 10.5, 7.5), radii=(4.6 * size, 5.4 * size, 4.2 * size), hu=hu))
    if rng.random() < 0.45:                                                                         # downwards
        masses.append(Mass(centre=(42.4, 1.5, 0.5), radii=(2.2, 3.5 * size, 3.5), hu=hu))
    eroded = rng.random() < 0.92
    return EarChange(
        code=2, kind="cholesteatoma", masses=tuple(masses),
        fill={"tympanum": _between(rng, 0.0, 0.8), "attic": _between(rng, 0.6, 1.0), "antrum": _between(rng, 0.6, 1.0),
              "cells": _between(rng, 0.1, 0.7)},
        fill_hu=hu, scutum=_between(rng, 0.0, 0.4) if rng.random() < 0.72 else 1.0,
        ossicles={"malleus": _between(rng, 0.3, 0.9), "incus": _between(rng, 0.0, 0.5) if rng.random() < 0.8 else 0.8,
                  "stapes": _between(rng, 0.0, 0.8)} if eroded else {},
        antrum_scale=_between(rng, 1.1, 1.5), tegmen_open=bool(rng.random() < 0.3),
        membrane_mm=_between(rng, 0.4, 1.2), retraction_mm=_between(rng, 0.0, 1.5),
        sclerosis=_between(rng, 0.2, 0.9), cell_loss=_between(rng, 0.0, 0.3),
    )


def _ome(rng: np.random.Generator) -> EarChange:
    hu = _between(rng, 10, 40)
    if rng.random() < 0.4:
        return EarChange(code=3, kind="ome_level", level_mm=_between(rng, -3.5, 1.0), fill_hu=hu, membrane_mm=0.3,
                         retraction_mm=_between(rng, 0.0, 1.0))
    bubbles = _between(rng, 0.0, 0.25)
    return EarChange(
        code=3, kind="ome_full", fill={"tympanum": 1 - bubbles, "attic": 1 - bubbles, "antrum": 1 - bubbles,
                                       "cells": _between(rng, 0.3, 1.0)},
        fill_hu=hu, membrane_mm=0.35, retraction_mm=_between(rng, 0.0, 1.0),
    )


def _cholesterol_granuloma(rng: np.random.Generator) -> EarChange:
    hu = _between(rng, 40, 80)
    size = _between(rng, 0.85, 1.3)
    masses = [Mass(centre=(47.5, 11.0, 5.0), radii=(7.0 * size, 8.5 * size, 7.0 * size), hu=hu, rim=True)]
    if rng.random() < 0.6:
        masses.append(Mass(centre=(42.6, 1.0, 2.5), radii=(3.3, 5.5, 5.5), hu=hu))
    return EarChange(
        code=4, kind="cholesterol_granuloma", masses=tuple(masses),
        fill={"tympanum": _between(rng, 0.4, 1.0), "attic": _between(rng, 0.6, 1.0), "antrum": 1.0,
              "cells": _between(rng, 0.3, 1.0)},
        fill_hu=hu, membrane_mm=_between(rng, 0.3, 0.8), antrum_scale=_between(rng, 1.0, 1.3),
        ossicles={"incus": _between(rng, 0.5, 1.0)}, cell_loss=_between(rng, 0.0, 0.3),
    )


def _other(rng: np.random.Generator) -> EarChange:
    kind = str(rng.choice(["otosclerosis", "fracture", "malformation", "surgery", "tumour"], p=[0.12, 0.2, 0.2, 0.28, 0.2]))
    base = EarChange(code=6, kind=kind, membrane_mm=_between(rng, 0.2, 0.6))
    if kind == "otosclerosis":
        return replace(base, capsule_spot_hu=_between(rng, 500, 900))
    if kind == "fracture":
        blood = _between(rng, 0.5, 1.0)
        return replace(base, fracture=True, fill={"tympanum": blood, "attic": blood, "antrum": blood, "cells": blood * 0.7},
                       fill_hu=_between(rng, 40, 75))
    if kind == "malformation":
        return replace(base, atresia=True, cell_loss=_between(rng, 0.4, 0.9), fill={"tympanum": _between(rng, 0.0, 0.7)},
                       ossicles={"malleus": 0.7, "incus": 0.7, "stapes": _between(rng, 0.0, 0.6)})
    if kind == "surgery":
        return sample_operated_ear(rng)
    hu = _between(rng, 45, 75)
    size = _between(rng, 0.9, 1.4)
    masses = (Mass(centre=(41.5, -0.5, -2.5), radii=(3.2 * size, 5.0 * size, 5.0 * size), hu=hu),
              Mass(centre=(38.0, 2.5, -8.0), radii=(5.0 * size, 5.0 * size, 5.5 * size), hu=hu))
    return replace(base, masses=masses, fill={"tympanum": 0.9, "attic": _between(rng, 0.0, 0.9)}, fill_hu=hu)


def sample_operated_ear(rng: np.random.Generator) -> EarChange:
    """Sample an ear after mastoidectomy: a smooth cavity, mostly air, open towards the ear canal."""
    return EarChange(
        code=6, kind="surgery", cavity=_between(rng, 0.6, 1.0), cell_loss=_between(rng, 0.3, 0.9), scutum=0.0,
        ossicles={"malleus": _between(rng, 0.0, 0.8), "incus": 0.0, "stapes": _between(rng, 0.2, 1.0)},
        fill={"tympanum": _between(rng, 0.0, 0.6), "attic": _between(rng, 0.0, 0.5), "cells": _between(rng, 0.2, 0.9)},
        fill_hu=_between(rng, 30, 80), sclerosis=_between(rng, 0.2, 0.8), membrane_mm=_between(rng, 0.5, 1.2),
    )


_SAMPLERS = {1: _csom, 2: _cholesteatoma, 3: _ome, 4: _cholesterol_granuloma, 5: _healthy, 6: _other}


def sample_change(code: int, rng: np.random.Generator) -> EarChange:
    """Sample the changes of an ear with this diagnosis code (1 to 6)."""
    return _SAMPLERS[code](rng)


MASS_CENTRES = ((43.0, -3.0, -12.0), (60.0, 24.0, 8.0))
"""Corners (mm, ear frame) of the box of possible centres, in the mastoid and middle ear, which even a short scan covers."""
MASS_RADIUS, MASS_HU = (3.0, 4.0), (1800.0, 2200.0)
"""Range of the radius (mm) and the HU of the mass, which is as dense as the otic capsule: a network learns it from few ears,
and it is not the brightest structure."""


def sample_one_mass(code: int, rng: np.random.Generator) -> EarChange:
    """Sample a healthy ear and, unless the code is NORMAL, a ball of dense bone (like an osteoma) at a random position.

    Nothing else differs between the two, and the masses of different patients seldom overlap.
    """
    healthy = replace(_healthy(rng), fill={})
    centre, radius, hu = rng.uniform(*MASS_CENTRES), _between(rng, *MASS_RADIUS), _between(rng, *MASS_HU)
    if code == NORMAL:
        return healthy
    mass = Mass(centre=(float(centre[0]), float(centre[1]), float(centre[2])), radii=(radius, radius, radius), hu=hu)
    return replace(healthy, code=code, kind="one_mass", masses=(mass,))

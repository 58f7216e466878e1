"""Each voxel of an ear volume is where its affine says, however the scan lies; the positions of the ears are given here."""
import functools
import itertools
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from helpers.dicom_files import write_volume

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears import prepare
from medical_fenlei.ears.localize import EarLocation, Localization
from medical_fenlei.ears.prepare import EAR_MM, prepare_ears
from medical_fenlei.ears.symmetry import MidsagittalPlane
from medical_fenlei.vocabulary import SIDES, Side

SHAPE, SPACING = (22, 72, 90), (2.0, 1.6, 1.8)
SCANS = {"upright": (0.0, False), "gantry_tilt": (15.0, False), "gantry_tilt_stored_turned": (-12.0, True)}
"""Gantry tilt in degrees, and whether all axes are stored backwards and rows as columns."""
TISSUE, BLOB_HU, BLOB_MM, APART_MM = 100, 4000, 2.2, 7.0
BLOBS = [(0, 0, 0), (16, 4, 3), (-15, -6, -2), (3, 17, -4), (2, -18, 5), (-20, 12, 8), (18, -14, -7), (24, 24, 2),
         (-22, -30, 3)]
"""From the tympanic centre, mm: outwards, to the back, up; farther apart than 2 APART_MM, which holds all of a blob's light."""


def truth(rotation_deg=7.0, tilt_deg=4.0, up=0.0, sides=SIDES):
    turn, tilt = np.deg2rad([rotation_deg, tilt_deg])
    normal = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])
    plane = MidsagittalPlane(np.array([3.0, -5.0, 2.0]), normal, 1.0)
    shifts = {Side.LEFT: (41.3, 2.7, 1.4 + up), Side.RIGHT: (43.1, 4.2, -0.9 + up)}
    return Localization(plane, {side: EarLocation(plane.point + np.array(shifts[side]) * [side.sign, 1, 1] @ plane.axes, 1.0)
                                for side in sides})


def blob_places(found):
    """Every blob's LPS place, of both ears."""
    return np.array([ear.centre + np.array([side.sign * a, b, c]) for side, ear in found.ears.items() for a, b, c in BLOBS])


def scan_affine(shape, spacing, gantry_deg=0.0, centre=(2.0, -3.0, 1.0)):
    """The slices lean back, the table moves along z."""
    lean, affine = np.deg2rad(gantry_deg), np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, np.cos(lean), 0], [1, np.sin(lean), 0]]) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def points_of(affine, shape):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def into(affine, points):
    """Index (..., 3) of LPS points (..., 3)."""
    inverse = np.linalg.inv(affine)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def written(folder, hu, affine, turned=False):
    if turned:
        for axis in range(3):
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
            affine[:3, axis] *= -1
        hu, affine = np.flip(hu).swapaxes(1, 2), affine[:, [0, 2, 1, 3]]
    write_volume(folder, np.rint(hu).astype(np.int16), affine, reverse=turned)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Name → the folder of a scan with bright blobs in even tissue, its HU and affine."""
    base = tmp_path_factory.mktemp("scans")

    @functools.cache
    def of(name):
        gantry_deg, turned = SCANS[name]
        affine = scan_affine(SHAPE, SPACING, gantry_deg)
        hu, points = np.full(SHAPE, float(TISSUE)), points_of(affine, SHAPE)
        for place in blob_places(truth()):
            hu += BLOB_HU * np.exp(-((points - place) ** 2).sum(-1) / (2 * BLOB_MM**2))
        return written(base / name, hu, affine, turned), np.rint(hu), affine

    return of


class Cut:
    """An ear volume beside what the test knows: where each voxel lies in the scan and before the plane."""

    def __init__(self, ear, side, found, scan, shape):
        self.volume, self.facts, self.side = ear.volume, ear.facts, side
        self.affine = np.array(ear.facts["affine_lps"])
        relative, ends = np.linalg.inv(scan) @ self.affine, [(-0.5, n - 0.5) for n in shape]
        grid = np.ogrid[tuple(slice(n) for n in ear.volume.shape)]
        index = [sum(m * i for m, i in zip(line[:3], grid, strict=True)) + line[3] for line in relative[:3]]
        depths = [np.minimum(i - low, high - i) for i, (low, high) in zip(index, ends, strict=True)]
        self.depth = functools.reduce(np.minimum, depths)
        normal = found.plane.normal * side.sign
        across, start = normal @ self.affine[:3, :3], normal @ (self.affine[:3, 3] - found.plane.point)
        self.lateral = sum(m * i for m, i in zip(across, grid, strict=True)) + start

    def missing(self, margin=0.0):
        """bool (K, H, W): whose centres lie outside the scan or beyond the plane by more than the margin (voxels of it, mm)."""
        return (self.depth < -margin) | (self.lateral < -margin)

    def tells_its_share(self):
        sure, maybe = self.missing(1e-3).mean(), self.missing(-1e-3).mean()
        return sure - 6e-5 <= self.facts["padded_share"] <= maybe + 6e-5


def cut_all(series, spec, found, scan, shape=SHAPE):
    return {side: Cut(ear, side, found, scan, shape) for side, ear in prepare_ears(series, spec).items()}


@pytest.fixture(scope="module")
def cut(scans):
    """(name, spec) → the ears of a scan, cut once for all tests."""
    @functools.cache
    def of(name, spec):
        folder, _, scan = scans(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare, "locate", lambda hu, affine: truth())
            return cut_all(open_series(folder), spec, truth(), scan)

    return of


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """The ears lie where the test says, whatever the scan shows."""
    def at(found):
        monkeypatch.setattr(prepare, "locate", lambda hu, affine: found)

    monkeypatch.setattr(prepare, "refuse_other_than_hu", lambda hu: None)
    at(truth())
    return at


def specs():
    fields = [{"extent": "crop", "crop_mm": 66.0}, {"extent": "crop", "crop_size": 40}, {"extent": "half"},
              {"extent": "crop", "target_spacing": 0.9}, {"extent": "half", "target_spacing": 0.9}]
    for sampling, align, field in itertools.product(("even", "air_block", "roi"), (False, True), fields):
        target = "target_spacing" in field
        slices = 14 if sampling == "air_block" and not target else 30                        # several blocks to choose from
        yield EarSpec(sampling=sampling, align=align, num_slices=slices, image_size=76 if target else 60, roi_mm=30.0, **field)
    yield EarSpec(sampling="even", num_slices=8, image_size=40, crop_size=40)                # single slices, pixels as they are
    yield EarSpec(sampling="even", num_slices=8, image_size=40, crop_size=40, align=True)


def words(spec):
    extent = f"{spec.target_spacing}mm" if spec.target_spacing else f"{spec.crop_mm or spec.crop_size}"
    return f"{spec.extent}_{extent}_{spec.sampling}{spec.num_slices}{'_align' * spec.align}"


ALL = pytest.mark.parametrize("spec", list(specs()), ids=words)
EVERYWHERE = pytest.mark.parametrize("name", SCANS)


@EVERYWHERE
@ALL
def test_every_blob_is_where_the_affine_says(cut, name, spec):
    seen = 0
    for ear in cut(name, spec).values():
        assert ear.volume.shape == spec.shape and ear.volume.dtype == np.int16
        reach = APART_MM / np.linalg.norm(ear.affine[:3, :3], axis=0)
        for place in blob_places(truth()):
            at = into(ear.affine, place)
            if ((at < reach) | (at > np.array(spec.shape) - 1 - reach)).any():
                continue
            box = tuple(slice(int(i - r), int(i + r) + 2) for i, r in zip(at, reach, strict=True))
            if ear.missing(-0.5)[box].any():
                continue
            seen += 1
            index = np.stack(np.mgrid[box], -1)
            near = np.linalg.norm(index @ ear.affine[:3, :3].T + ear.affine[:3, 3] - place, axis=-1) < APART_MM
            light = np.maximum(ear.volume[box] - float(TISSUE), 0) * near
            centroid = np.einsum("kij,kijd->d", light, index) / light.sum()
            np.testing.assert_allclose(centroid, at, atol=0.5)
            np.testing.assert_allclose(centroid[1:], at[1:], atol=0.15)
            assert light.max() > 1000
    assert seen >= (2 if spec.sampling == "air_block" else 4)


@EVERYWHERE
@ALL
def test_column_0_is_lateral_and_rows_run_to_the_back_and_slices_up(scans, cut, name, spec):
    found = truth()
    for side, ear in cut(name, spec).items():
        steps = ear.affine[:3, :3]
        assert steps[2, 0] > 0 and steps[1, 1] > 0 and steps[0, 2] * side.sign < 0
        assert (found.plane.normal @ steps[:, 2]) * side.sign < 0
        if spec.align:
            units = steps / np.linalg.norm(steps, axis=0)
            np.testing.assert_allclose(units[:, 2], -side.sign * found.plane.normal, atol=1e-6)
            np.testing.assert_allclose(units[:, :2], found.plane.axes[[2, 1]].T, atol=1e-6)
        else:
            np.testing.assert_allclose(steps / np.linalg.norm(steps, axis=0) * [1, 1, -side.sign],
                                       scans(name)[2][:3, :3] / SPACING, atol=1e-6)


@EVERYWHERE
@ALL
def test_missing_voxels_are_air_and_their_share_is_recorded(scans, cut, name, spec):
    inverse = np.linalg.inv(scans(name)[2])
    for ear in cut(name, spec).values():
        assert ear.tells_its_share()
        assert (ear.volume[ear.missing(1e-3)] == -1000).all()
        rim = max(1.0, abs((inverse @ ear.affine)[:3, :3]).max())
        assert (ear.volume[~ear.missing(-0.5 - rim)] >= TISSUE - 1).all()


@EVERYWHERE
@ALL
def test_slice_files_name_the_slices_nearest_to_each_of_the_volume(scans, cut, name, spec):
    folder, _, affine = scans(name)
    for side, ear in cut(name, spec).items():
        names = ear.facts["slice_files"]
        positions = {file: np.array(pydicom.dcmread(folder / file, stop_before_pixels=True).ImagePositionPatient, float)
                     for file in set(names)}
        normal = np.cross(affine[:3, 2], affine[:3, 1])
        normal /= np.linalg.norm(normal) * np.sign(normal[2])
        row, column = into(ear.affine, truth().ears[side].centre)[1:]
        at = np.array([ear.affine[:3] @ [k, row, column, 1] for k in range(spec.num_slices)]) @ normal     # beside the ear
        gap = affine[:3, 0] @ normal
        lowest = affine[:3, 3] @ normal
        at = np.clip(at, lowest, lowest + (SHAPE[0] - 1) * gap)
        there = np.array([positions[file] @ normal for file in names])
        assert abs(there - at).max() <= gap / 2 + 0.01


@EVERYWHERE
@ALL
def test_the_image_of_each_slice_has_the_number_and_the_position_of_its_header(scans, cut, name, spec):
    folder, _, _ = scans(name)
    for side, ear in cut(name, spec).items():
        headers = [pydicom.dcmread(folder / file, stop_before_pixels=True) for file in ear.facts["slice_files"]]
        images = tables.source_images(ear.facts, spec.num_slices)
        assert [one.number for one in images] == [int(own.InstanceNumber) for own in headers], side
        assert [one.z_mm for one in images] == pytest.approx([own.ImagePositionPatient[2] for own in headers], abs=0.0051)


@EVERYWHERE
@pytest.mark.parametrize("spec", [
    EarSpec(sampling="roi", align=True, num_slices=20, image_size=56, crop_mm=66.0),
    EarSpec(sampling="roi", align=True, num_slices=20, image_size=56, target_spacing=1.2),
    EarSpec(sampling="even", align=True, num_slices=30, image_size=64, crop_mm=66.0),
    EarSpec(sampling="even", align=True, num_slices=6, image_size=64, crop_mm=66.0),
    EarSpec(sampling="air_block", align=True, num_slices=9, image_size=80, crop_mm=66.0),
    EarSpec(sampling="even", align=True, num_slices=22, image_size=100, extent="half"),
    EarSpec(sampling="roi", num_slices=30, image_size=80, crop_mm=66.0),
    EarSpec(sampling="roi", num_slices=30, image_size=80, target_spacing=0.8),
    EarSpec(sampling="even", num_slices=30, image_size=80, crop_size=40),
], ids=words)
def test_where_nothing_is_coarser_than_the_scan_hu_equal_linear_interpolation_of_simpleitk(scans, cut, name, spec):
    """A volume whose slices alone are far apart counts as well: the slices of a volume are no means of several."""
    _, hu, affine = scans(name)
    for ear in cut(name, spec).values():
        interior = ~ear.missing(-0.51)
        assert interior.mean() > 0.15
        assert abs(by_simpleitk(hu, affine, ear) - ear.volume)[interior].max() < 1.5


def by_simpleitk(hu, affine, ear):
    """The same grid sampled from the scan's array, index to index."""
    index, turn = sitk.AffineTransform(3), (np.linalg.inv(affine) @ ear.affine)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]    # x, y, z
    index.SetMatrix(turn[:3, :3].ravel().tolist())
    index.SetTranslation(turn[:3, 3].tolist())
    grid = ear.volume.shape[::-1], index, sitk.sitkLinear, (0, 0, 0), (1, 1, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1)
    return sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(hu), *grid, -1000))


def test_slices_far_apart_in_a_tilted_head_are_as_sharp_as_those_close_together(tmp_path, given):
    """The way from one slice of the volume to the next is no width over which its pixels are averaged."""
    found, shape = truth(0.0, 12.0, sides=(Side.LEFT,)), (14, 70, 70)
    given(found)
    affine = scan_affine(shape, (4.0, 0.6, 0.6), centre=found.ears[Side.LEFT].centre)
    hu = np.random.default_rng(0).integers(0, 1000, shape).astype(float)
    spec = EarSpec(sampling="even", align=True, num_slices=6, image_size=40, crop_mm=20.0)
    ear = cut_all(open_series(written(tmp_path, hu, affine)), spec, found, affine, shape)[Side.LEFT]
    interior = ~ear.missing(-0.51)
    assert interior.mean() > 0.5 and abs(by_simpleitk(hu, affine, ear) - ear.volume)[interior].max() < 1.5


@pytest.mark.parametrize("name, align", [("upright", False), ("gantry_tilt", False), ("upright", True), ("gantry_tilt", True)])
@pytest.mark.parametrize("target", [0.37, 0.8, 2.5])
@pytest.mark.parametrize("extent", ["crop", "half"])
def test_target_spacing_is_the_step_along_every_axis_exactly(scans, name, align, target, extent):
    spec = EarSpec(sampling="roi", num_slices=12, image_size=30, target_spacing=target, align=align, extent=extent)
    for side, ear in prepare_ears(open_series(scans(name)[0]), spec).items():
        affine = np.array(ear.facts["affine_lps"])
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), target, rtol=1e-6)
        at = into(affine, truth().ears[side].centre)
        assert at[0] == pytest.approx(5.5, abs=1e-6)             # the ear in the middle of the slices
        if extent == "crop" and target < 2:                      # where the plane is far away, in the middle of the square too
            np.testing.assert_allclose(at[1:], 14.5, atol=1e-6)


FINE, FINE_SPACING, TARGET = (48, 96, 100), (0.5, 0.4, 0.4), 1.2
AVERAGING = [EarSpec(sampling="roi", num_slices=14, image_size=24, target_spacing=TARGET, align=turn) for turn in (False, True)]


def near_the_left_ear(folder, hu, spec, given, rotation_deg=7.0):
    """The left volume of a small fine scan around the left ear, without its rim."""
    found = truth(rotation_deg, 4.0, sides=(Side.LEFT,))
    given(found)
    affine = scan_affine(FINE, FINE_SPACING, centre=found.ears[Side.LEFT].centre)
    ear = prepare_ears(open_series(written(folder, hu, affine)), spec)[Side.LEFT]
    return ear.volume[3:-3, 3:-3, 3:-3].astype(float)


@pytest.mark.parametrize("spec", AVERAGING, ids=words)
def test_detail_finer_than_the_target_spacing_is_averaged(tmp_path, given, spec):
    def sd(hu):
        return near_the_left_ear(tmp_path / str(hu.sum()), hu, spec, given).std()

    assert sd(np.full(FINE, 321.0)) == 0
    for axis in range(3):
        stripes = np.where(np.indices(FINE)[axis] % 2, 1000.0, 0.0) + axis
        assert sd(stripes) < 60, axis                            # of 500: a triangle leaves a ninth
    noise = np.random.default_rng(0).normal(0, 300, FINE)
    expected = 300 * np.sqrt(np.prod([2 / 3 * s / TARGET for s in FINE_SPACING]))            # of the mean over a triangle
    assert sd(noise) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("spec", AVERAGING, ids=words)
def test_averaging_keeps_the_mean(tmp_path, given, spec):
    ramp = np.indices(FINE)[2] * 20.0
    cut = near_the_left_ear(tmp_path, ramp, spec, given, rotation_deg=0.0)
    assert cut.mean() == pytest.approx(ramp.mean(), abs=20)      # a scan pixel
    assert abs(np.diff(cut, axis=2) + 20 * TARGET / 0.4).max() < 6 if spec.align else abs(np.diff(cut, axis=2) + 60).max() < 2


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("sampling", ["even", "roi"])
def test_a_mirrored_scan_gives_the_same_volumes_with_their_sides_exchanged(tmp_path, scans, given, align, sampling):
    spec = EarSpec(sampling=sampling, align=align, num_slices=12, image_size=48, crop_mm=63.0)
    _, hu, affine = scans("upright")
    one = prepare_ears(open_series(scans("upright")[0]), spec)
    middle, found = (affine @ [0, 0, (SHAPE[2] - 1) / 2, 1])[0], truth()

    def mirrored(point):
        return point * [-1, 1, 1] + [2 * middle, 0, 0]

    given(Localization(MidsagittalPlane(mirrored(found.plane.point), found.plane.normal * [1, -1, -1], 1.0),
                       {side.other: EarLocation(mirrored(ear.centre), 1.0) for side, ear in found.ears.items()}))
    other = prepare_ears(open_series(written(tmp_path, hu[..., ::-1], affine)), spec)
    for side in SIDES:
        assert abs(one[side].volume.astype(int) - other[side.other].volume).max() <= 1


@pytest.mark.parametrize("spec", [spec for spec in specs() if spec.num_slices == 30 and not spec.align
                                  and (spec.crop_mm or spec.target_spacing or spec.extent == "half")], ids=words)
def test_aligning_a_straight_head_changes_nothing(scans, given, spec):
    given(truth(0.0, 0.0))
    folder, _, _ = scans("upright")
    straight, turned = (prepare_ears(open_series(folder), s) for s in (spec, replace(spec, align=True)))
    for side in SIDES:
        np.testing.assert_allclose(turned[side].facts["affine_lps"], straight[side].facts["affine_lps"], atol=1e-6)
        assert abs(turned[side].volume.astype(int) - straight[side].volume).max() <= 1


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("up", [18.0, -18.0], ids=["top", "bottom"])
def test_outside_a_short_scan_is_exactly_air(scans, given, align, up):
    folder, _, affine = scans("upright")
    given(truth(up=up))
    spec = EarSpec(sampling="roi", roi_mm=40.0, num_slices=20, image_size=40, crop_mm=50.0, align=align)
    for ear in prepare_ears(open_series(folder), spec).values():
        z = points_of(np.array(ear.facts["affine_lps"]), spec.shape)[..., 2]
        low, high = affine[2, 3] - 1.0, affine[2, 3] + (SHAPE[0] - 0.5) * 2.0
        beyond = (z < low - 0.01) | (z > high + 0.01)
        assert 0.2 < beyond.mean() < 0.6 and (ear.volume[beyond] == -1000).all()
        assert (ear.volume[(z > low + 3) & (z < high - 3)] >= TISSUE - 1).all()
        assert ear.facts["padded_share"] == pytest.approx(beyond.mean(), abs=0.01)


@pytest.mark.parametrize("beyond, there", [(EAR_MM - 1, True), (EAR_MM + 1, False)])
@pytest.mark.parametrize("end", ["top", "bottom", "lateral"])
def test_an_ear_well_beyond_the_scan_is_not_cut(scans, given, end, beyond, there):
    folder, _, affine = scans("upright")
    low, high = (affine[:3] @ np.array([[-0.5] * 3 + [1], [n - 0.5 for n in SHAPE] + [1]]).T).T
    place = {"top": [44, 0, high[2] + beyond], "bottom": [44, 0, low[2] - beyond], "lateral": [high[0] + beyond, 0, 0]}[end]
    given(Localization(truth(0, 0).plane, {Side.LEFT: EarLocation(np.array(place), 1.0)}))
    ears = prepare_ears(open_series(folder), EarSpec(num_slices=4, image_size=16, crop_mm=40.0))
    assert set(ears) == ({Side.LEFT} if there else set())


@pytest.mark.parametrize("side", SIDES)
def test_only_ears_that_were_found_and_requested_are_cut(scans, given, side):
    series, spec = open_series(scans("upright")[0]), EarSpec(num_slices=4, image_size=16, crop_mm=40.0)
    assert set(prepare_ears(series, spec, (side,))) == {side}
    given(truth(sides=(side,)))
    assert set(prepare_ears(series, spec)) == {side}
    assert prepare_ears(series, spec, (side.other,)) == {}


@pytest.mark.parametrize("spec", [
    EarSpec(num_slices=8, image_size=24), EarSpec(sampling="roi", roi_mm=300.0, num_slices=8, image_size=24),
    EarSpec(sampling="air_block", num_slices=8, image_size=24), EarSpec(sampling="even", num_slices=1, image_size=24),
    EarSpec(sampling="roi", num_slices=1, image_size=1), EarSpec(sampling="air_block", num_slices=1, image_size=24),
    EarSpec(sampling="roi", target_spacing=10.0, num_slices=8, image_size=24), EarSpec(crop_mm=300.0, image_size=24),
    EarSpec(sampling="air_block", target_spacing=0.05, num_slices=8, image_size=24),
], ids=words)
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("extent", ["crop", "half"])
@pytest.mark.parametrize("shape", [(2, 12, 14), (3, 30, 30)], ids=str)
def test_a_scan_smaller_than_the_volume_is_padded(tmp_path, given, shape, spec, align, extent):
    spec = replace(spec, align=align, extent=extent)
    found = truth(sides=(Side.LEFT,))
    given(found)
    affine = scan_affine(shape, (3.0, 2.0, 2.0), 8.0, centre=found.ears[Side.LEFT].centre)
    ear = cut_all(open_series(written(tmp_path, np.full(shape, 500), affine)), spec, found, affine, shape)[Side.LEFT]
    assert ear.volume.shape == spec.shape and ear.volume.max() <= 500 and ear.volume.min() >= -1000
    assert ear.tells_its_share()
    assert (ear.volume[ear.missing(1e-3)] == -1000).all() and (ear.volume[~ear.missing(-1e-3)] > -1000).all()


@pytest.mark.parametrize("spec", [
    EarSpec(num_slices=6, image_size=64, crop_mm=140.0), EarSpec(num_slices=6, image_size=64, crop_size=80),
    EarSpec(num_slices=6, image_size=64, target_spacing=2.2, sampling="roi"),
    EarSpec(num_slices=6, image_size=64, crop_mm=140.0, align=True)], ids=words)
@EVERYWHERE
def test_a_crop_that_would_pass_the_plane_moves_outwards_and_holds_nothing_beyond(cut, name, spec):
    for side, ear in cut(name, spec).items():
        assert (ear.volume[ear.lateral < -1e-3] == -1000).all() and (ear.volume[ear.lateral > 0] > 0).any()
        k, row, _ = into(ear.affine, truth().ears[side].centre)
        inner_edge = ear.affine[:3] @ [k, row, spec.image_size - 0.5, 1]                     # of the square, beside the ear
        assert abs(truth().lateral(inner_edge, side)) < max(1.9, np.linalg.norm(ear.affine[:3, 2]))


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("extent, target", [("crop", None), ("half", None), ("crop", 1.5)])
def test_the_block_is_where_the_ear_holds_most_air(tmp_path, given, name, align, extent, target):
    given(truth(4.0, 2.0))
    gantry_deg, turned = SCANS[name]
    affine = scan_affine(SHAPE, SPACING, gantry_deg)
    hu, points = np.full(SHAPE, 40.0), points_of(affine, SHAPE)
    hu[:, [0, 1, -2, -1]] = -1000                                # around the head
    hu[:, :, [0, 1, -2, -1]] = -1000
    pockets = {Side.LEFT: 3.0, Side.RIGHT: -4.0}        # its block holds the ear's centre
    for side, ear in truth(4.0, 2.0).ears.items():
        away = abs(points - ear.centre - [0, 4, pockets[side]])
        hu[(away < [7, 9, 4]).all(axis=-1)] = -900
    spec = EarSpec(sampling="air_block", num_slices=6, image_size=40, extent=extent, align=align,
                   **({"target_spacing": target} if target else {"crop_mm": 60.0} if extent == "crop" else {}))
    for side, ear in cut_all(open_series(written(tmp_path, hu, affine, turned)), spec, truth(4.0, 2.0), affine).items():
        air = (ear.volume < -500) & ~ear.missing(-4.0)
        pocket = truth(4.0, 2.0).ears[side].centre + np.array([0, 4, pockets[side]])
        air &= np.linalg.norm(points_of(ear.affine, spec.shape) - pocket, axis=-1) < 12
        assert (air.sum(axis=(1, 2)) > 0).sum() >= 4


@pytest.mark.parametrize("below", [(-32, -25), (-70, -18)], ids=["a_pocket_where_the_look_ends", "a_throat"])
@pytest.mark.parametrize("extent", ["crop", "half"])
def test_the_block_of_a_whole_head_holds_the_ear_whatever_air_lies_below(tmp_path, given, extent, below):
    shape, found = (64, 60, 80), truth(0.0, 0.0)
    given(found)
    affine = scan_affine(shape, (2.0, 2.0, 2.0), centre=(2.0, -3.0, 0.0))
    hu, points = np.full(shape, 40.0), points_of(affine, shape)
    hu[:, [0, 1, -2, -1]] = -1000
    hu[:, :, [0, 1, -2, -1]] = -1000
    for ear in found.ears.values():
        hu[(abs(points - ear.centre) < [9, 9, 6]).all(axis=-1)] = -900
    beside = abs(abs(points[..., 0] - 3) - 16) < 8               # on either side of the plane
    hu[beside & (abs(points[..., 1]) < 16) & (points[..., 2] > below[0]) & (points[..., 2] < below[1])] = -900
    spec = EarSpec(sampling="air_block", num_slices=12, image_size=40, extent=extent, crop_mm=80.0)
    for side, ear in cut_all(open_series(written(tmp_path, hu, affine)), spec, found, affine, shape).items():
        assert 0 <= into(ear.affine, found.ears[side].centre)[0] <= 11


@pytest.mark.parametrize("spec", [EarSpec(num_slices=7), EarSpec(num_slices=20), EarSpec(sampling="roi")], ids=words)
@pytest.mark.parametrize("slices, spacing", [(22, 2.0), (30, 0.9), (14, 3.0), (64, 2.0)], ids=["22", "thin", "thick", "long"])
@pytest.mark.parametrize("gantry_deg", [0.0, 14.0])
def test_the_volume_for_the_localiser_lies_where_its_affine_says(tmp_path, monkeypatch, spec, slices, spacing, gantry_deg):
    shape, shown = (slices, 61, 47), []
    affine = scan_affine(shape, (spacing, 1.3, 1.9), gantry_deg)
    places = affine[:3] @ np.array([[slices / 2 + 1, 20, 14, 1], [slices / 2 - 2, 40, 33, 1]]).T
    hu = sum(3000 * np.exp(-((points_of(affine, shape) - place) ** 2).sum(-1) / (2 * 3.0**2)) for place in places.T) - 1000
    found = Localization(truth(0, 0).plane, {Side.LEFT: EarLocation(affine[:3] @ [slices / 2, 30, 30, 1], 1.0)})
    monkeypatch.setattr(prepare, "locate", lambda hu, affine: shown.append((hu, affine.matrix)) or found)
    prepare_ears(open_series(written(tmp_path, hu, affine)), spec)
    assert shown
    for coarse, at in shown:
        points = points_of(at, coarse.shape)
        assert at[0, 2] > 0 and at[1, 1] > 0 and at[2, 0] > 0 and 1.4 < at[0, 2] < 2.6
        for place in places.T:
            near = np.linalg.norm(points - place, axis=-1) < 13
            light = (coarse + 1000.0) * near
            centroid = np.einsum("kij,kijd->d", light, points) / light.sum()
            np.testing.assert_allclose(centroid[:2], place[:2], atol=0.25)
            assert centroid[2] == pytest.approx(place[2], abs=max(0.25, at[2, 0] / 3))

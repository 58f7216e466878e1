"""Regular stacks read through the rounding of their positions; holes, copies and changing spacings are found all the same."""
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import axial, head, write_volume

from medical_fenlei.dicom.rounded_positions import read_through_rounding
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.errors import Rejected

SHAPE = (60, 16, 16)
HU = head(SHAPE, noise=100)


def rounded(folder, spacing, quantum, *, tilt=0.0, start=-17.31):
    """A series whose positions are multiples of the quantum. Returns its files and its true positions along z."""
    affine = axial(SHAPE, (spacing, 4.0, 4.0))
    z = start + spacing * np.arange(SHAPE[0])
    files = write_volume(folder, HU, affine)
    for k, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        x, y = (float(value) for value in dataset.ImagePositionPatient[:2])
        at = np.rint(np.array([x, y + tilt * (z[k] - start), z[k]]) / quantum) * quantum
        dataset.ImagePositionPatient = [f"{value:.4f}" for value in at]
        dataset.save_as(path)
    return files, z


@pytest.mark.parametrize(("spacing", "quantum"), [
    (0.33, 0.1), (0.625, 0.1), (0.67, 0.1), (0.25, 0.1), (1.25, 0.5), (0.33, 0.01)])
@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_the_slices_stay_and_the_spacing_is_fitted(tmp_path, spacing, quantum, tilt):
    _, z = rounded(tmp_path, spacing, quantum, tilt=tilt)
    series = open_series(tmp_path)
    assert series.shape == SHAPE and series.geometry.between is None
    assert series.geometry.slice_spacing == pytest.approx(spacing, abs=quantum / SHAPE[0])
    assert np.abs(series.affine.origin[2] - z[0]) < quantum
    for k in (0, 30, 59):
        np.testing.assert_array_equal(series.slice(k), HU[k])    # noise and all: nothing was averaged


@pytest.mark.parametrize("missing", [(5,), (20, 41), (30, 31)])
def test_a_hole_in_rounded_positions_is_filled_and_the_other_slices_stay(tmp_path, missing):
    files, _ = rounded(tmp_path, 0.33, 0.1)
    for k in missing:
        files[k].unlink()
    series = open_series(tmp_path)
    assert series.shape == SHAPE and series.geometry.slice_spacing == pytest.approx(0.33, abs=0.003)
    codes = [note.partition(":")[0] for note in series.geometry.notes]
    assert codes == ["resampled", "rounded_positions"]
    for k in (0, 12, 59):
        np.testing.assert_array_equal(series.slice(k), HU[k])


def test_a_copy_at_a_position_of_its_own_is_no_rounding(tmp_path):
    files, _ = rounded(tmp_path, 0.33, 0.1)
    dataset = pydicom.dcmread(files[7])
    dataset.SOPInstanceUID = "1.2.3"
    dataset.ImagePositionPatient[2] = float(pydicom.dcmread(files[8]).ImagePositionPatient[2])
    dataset.save_as(tmp_path / "again")
    with pytest.raises(Rejected, match="share a position"):
        open_series(tmp_path)


def drawn(rng, spacing, quantum, change=None):
    """Positions (N, 3) of a drawn stack, changed and then rounded, and their heights."""
    z = rng.uniform(-1000, 1000) + spacing * np.arange(int(rng.integers(20, 250)))
    if change is not None:
        z = change(z, rng)
    position = np.stack([np.full(len(z), -110.2), np.full(len(z), -95.7), np.rint(z / quantum) * quantum], axis=1)
    return position, position[:, 2]


def a_hole(z, rng):
    return np.delete(z, rng.integers(1, len(z) - 1))


def a_copy_between(z, rng):
    k = rng.integers(1, len(z) - 1)
    return np.insert(z, k + 1, (z[k] + z[k + 1]) / 2)


def a_growing_step(z, rng):
    return z + 0.15 * (z - z[0]) ** 2 / (z[-1] - z[0])           # by 30 % over the stack


def another_step_above(z, rng):
    return np.where(np.arange(len(z)) > len(z) // 2, z + 0.2 * (z - z[len(z) // 2]), z)


FORMS = [(0.33, 0.1), (0.625, 0.1), (0.67, 0.1), (0.4, 0.1), (0.25, 0.1), (1.25, 0.5), (0.33, 0.01)]


@pytest.mark.parametrize(("spacing", "quantum"), FORMS)
def test_of_drawn_regular_stacks_each_is_read_whole(spacing, quantum):
    rng = np.random.default_rng(1)
    for _ in range(100):
        position, along = drawn(rng, spacing, quantum)
        found = read_through_rounding(position, along)
        assert found is not None and found.number[-1] + 1 == len(along)
        assert np.linalg.norm(found.step) == pytest.approx(spacing, abs=quantum / len(along))


@pytest.mark.parametrize(("spacing", "quantum"), FORMS)
@pytest.mark.parametrize("change", [a_hole, a_copy_between, a_growing_step, another_step_above])
def test_of_drawn_irregular_stacks_none_passes_for_a_rounded_regular_one(spacing, quantum, change):
    rng = np.random.default_rng(2)
    for _ in range(60):
        position, along = drawn(rng, spacing, quantum, change)
        if np.diff(along).min() < 0.05:
            continue                                             # refused before, since slices share a position
        found = read_through_rounding(position, along)
        assert found is None or (change is a_hole and found.number[-1] + 1 == len(along) + 1)

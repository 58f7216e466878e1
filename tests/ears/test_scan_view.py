"""An ear volume in the scan that it was cut from: corners, outlines and proportions, against values by hand."""
import numpy as np
import pytest
from helpers.dicom_files import axial
from scipy.spatial.transform import Rotation

from medical_fenlei.ears.scan_view import ScanView, box_corners, outline
from medical_fenlei.spatial import Affine


def test_corners_of_a_box_equal_those_computed_by_hand():
    scan = axial((10, 100, 80), (1.5, 0.5, 0.25))                # its centre is the origin
    volume = np.array([[0, 0, -1.0, 8], [0, 2.0, 0, -6], [3.0, 0, 0, -4.5], [0, 0, 0, 1]])
    corners = box_corners(Affine(volume), (4, 6, 8), Affine(scan))
    # z from -4.5 - 1.5 to -4.5 + 10.5; the scan's slice 0 lies at z = -6.75, 1.5 mm apart
    np.testing.assert_allclose(corners[:, 0, 0, 0], [(-6 + 6.75) / 1.5, (6 + 6.75) / 1.5])
    # y from -6 - 1 to -6 + 11; row 0 at y = -24.75, 0.5 mm apart
    np.testing.assert_allclose(corners[0, :, 0, 1], [(-7 + 24.75) / 0.5, (5 + 24.75) / 0.5])
    # column 0 begins at x = 8.5 (lateral, left), the last ends at 0.5; column 0 of the scan at x = -9.875, 0.25 mm apart
    np.testing.assert_allclose(corners[0, 0, :, 2], [(8.5 + 9.875) / 0.25, (0.5 + 9.875) / 0.25])
    cut = outline(corners, 3)
    assert {tuple(point) for point in cut.round(6)} == {(35.5, 73.5), (35.5, 41.5), (59.5, 73.5), (59.5, 41.5)}
    np.testing.assert_allclose(np.abs(np.diff(cut, axis=0)).min(axis=1), 0, atol=1e-6)   # around, never across
    np.testing.assert_allclose(outline(corners, 99), cut, atol=1e-6)                     # beyond the box its last face


def test_the_outline_of_a_turned_box_runs_along_its_faces():
    scan, shape = axial((40, 200, 200), (1.0, 0.5, 0.5)), (12, 30, 20)
    volume = np.eye(4)
    turn = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    volume[:3, :3] = turn @ np.array([[0, 0, 1.0], [0, 1.0, 0], [2.0, 0, 0]])
    volume[:3, 3] = -volume[:3, :3] @ ((np.array(shape) - 1) / 2) + [5, -3, 1]
    cut = outline(box_corners(Affine(volume), shape, Affine(scan)), 21)
    assert 3 <= len(cut) <= 6
    lps = np.column_stack([np.full(len(cut), 21.0), cut, np.ones(len(cut))]) @ scan[:3].T
    inside = Affine(volume).inverse.apply(lps)
    ends = np.isclose(inside, -0.5, atol=1e-4) | np.isclose(inside, np.array(shape) - 0.5, atol=1e-4)
    assert (ends.sum(axis=1) >= 2).all()                         # on an edge of the box: at an end of two axes
    assert ((inside > -0.51) & (inside < np.array(shape) - 0.49)).all()


def test_a_slice_with_different_row_and_column_spacing_keeps_its_proportions():
    assert ScanView(np.zeros((4, 4), np.int16), 0, Affine(axial((2, 4, 4), (1.0, 0.6, 0.3)))).aspect == pytest.approx(2)

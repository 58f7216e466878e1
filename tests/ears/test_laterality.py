"""Left stays left for every image orientation, patient position and rotation of the head."""
import datetime
import functools
import itertools

import numpy as np
import pytest
from scipy import ndimage
from threadpoolctl import threadpool_limits

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.phantom.anatomy import Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.head import LESION_BIT, draw_head
from medical_fenlei.phantom.scanner import Scan, acquire
from medical_fenlei.phantom.series import Patient, SeriesFacts, write_series
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side

SPEC = EarSpec(num_slices=12, image_size=48, crop_mm=64)
FILLED = EarChange(code=3, kind="ome_full", fill={"tympanum": 1.0, "attic": 1.0, "antrum": 1.0, "cells": 1.0})
FACTS = SeriesFacts(
    patient=Patient(patient_id="P", name="SYNTHETIC^NOBODY", birth_date=datetime.date(1980, 1, 1), sex="F", age_years=40),
    exam_id="00000001", date=datetime.date(2020, 1, 1), number=2, description="Temporal bone")
TURNS = (("left", "right"), ("posterior", "anterior"), ("head", "feet"), ("HFS", "FFS", "HFP"), (-20.0, 0.0, 20.0))
CASES = [(SIDES[sum(map(tuple.index, TURNS, case)) % 2], *case) for case in itertools.product(*TURNS)]
"""The side that is ill changes from case to case, so that it goes with no single turn."""


@functools.cache
def drawn(ill: Side, position: str, yaw: float):
    """HU and lesion in the upright display (k up, rows to the back, columns to the left), their affine, the landmarks."""
    person = sample_person(np.random.default_rng(4), age_years=40, aeration=0.6)
    pose = Pose(yaw_deg=yaw, pitch_deg=3.0, roll_deg=-2.0, offset_mm=(4.0, -6.0, 120.0))
    marks = landmarks(person, pose)
    scan = Scan(matrix=128, n_slices=24, increment_mm=1.6, thickness_mm=1.6, fov_mm=220.0, patient_position=position)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = scan.increment_mm, scan.pixel_mm, scan.pixel_mm
    centre = [0.0, -8.0, np.mean([marks["tympanum_left"][2], marks["tympanum_right"][2]]) + 1.0]
    affine[:, 3] = [*(centre - affine[:3, :3] @ ((np.array(scan.shape) - 1) / 2)), 1]
    changes = {ill: FILLED, ill.other: EarChange()}
    drawing = draw_head(person, changes, pose, Affine(affine), scan.shape, scan.gravity_lps)
    hu = acquire(drawing.hu, scan, np.random.default_rng(0))
    return scan, hu, drawing.lesion, affine, {name: np.array(value) for name, value in marks.items()}


def turned(hu, affine, axes):
    """The same voxels in the same places, stored backwards along these axes."""
    affine = affine.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
    return np.flip(hu, axes), affine


def index_of(point, affine):
    return (np.linalg.inv(affine) @ [*point, 1.0])[:3]


def holds(affine, shape, point):
    index = index_of(point, affine)
    return bool(((index > -0.5) & (index < np.array(shape) - 0.5)).all())


@pytest.mark.parametrize("ill, columns_to, rows_to, slices_to, position, yaw", CASES)
def test_each_side_is_cut_from_its_own_half_of_the_head(ill, columns_to, rows_to, slices_to, position, yaw, tmp_path):
    scan, upright, lesion, upright_affine, marks = drawn(ill, position, yaw)
    axes = [axis for axis, away in enumerate((slices_to == "feet", rows_to == "anterior", columns_to == "right")) if away]
    hu, affine = turned(upright, upright_affine, axes)
    write_series(tmp_path / "SE1", hu, Affine(affine), scan, FACTS, np.random.default_rng(0))
    with threadpool_limits(1):                                   # the matrices are small: threads only wait for each other
        ears = prepare_ears(open_series(tmp_path / "SE1"), SPEC)

    point, normal = marks["midsagittal_point"], marks["midsagittal_normal"]
    centre = (upright_affine[:3, :3] @ np.argwhere(lesion & LESION_BIT[ill]).T).mean(axis=1) + upright_affine[:3, 3]
    air = {}
    for side, ear in ears.items():
        into = np.array(ear.facts["affine_lps"])
        assert holds(into, ear.volume.shape, marks[f"tympanum_{side}"])
        assert not holds(into, ear.volume.shape, marks[f"tympanum_{side.other}"])
        assert holds(into, ear.volume.shape, centre) == (side is ill)

        columns = into[:3, :3] @ [0, 0, 1] * np.arange(48)[:, None] + into[:3, :3] @ [5.5, 23.5, 0] + into[:3, 3]
        assert (np.diff((columns - point) @ normal * side.sign) < 0).all()        # column 0 is lateral
        assert into[1, 1] > 0 and into[2, 0] > 0                                  # rows to the back, slices upwards

        at = index_of(marks[f"tympanum_{side}"], into)[:, None] + [[0, 0, 0], [-1, 0, 1], [0, 0, 0]]
        air[side] = float(ndimage.map_coordinates(ear.volume.astype(float), at, order=1).mean())
    assert air[ill.other] < -200 < 0 < air[ill]                   # voxels of 1.7 mm see a slit of 4 mm as partly air

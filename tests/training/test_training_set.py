"""The summary of the training set is stored with the checkpoint, and shows which ears are outside its range."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medical_fenlei.config import EAR2D, RunConfig
from medical_fenlei.json_files import checked
from medical_fenlei.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from medical_fenlei.training.training_set import TrainingSetSummary

EARS = pd.DataFrame({
    "exam_id": ["1", "1", "2", "3"], "label_code": np.array([5, 1, 5, 2], np.int8),
    "manufacturer": ["GE", "GE", "Siemens", "Siemens"],
    "kernel": ["BONEPLUS", "BONEPLUS", "U75u", "Ur73u/1"], "slice_increment_mm": [0.6, 0.6, 0.4, 1.0],
    "slice_thickness_mm": [np.nan] * 4, "age_years": pd.array([30, 30, None, 61], "Int64"),
})
"""Without the column of the pixel spacing, as none of a thickness."""


def test_a_summary_has_the_range_of_numbers_and_counts_of_categories():
    found = TrainingSetSummary.from_ears(EARS)
    assert (found.ears, found.exams) == (4, 3)
    assert found.ranges == {"slice_increment_mm": (0.4, 1.0), "age_years": (30, 61)}
    assert found.kernels == {"GE": {"BONEPLUS": 2}, "Siemens": {"U75u": 1, "Ur73u/1": 1}}
    assert found.codes == {"1": 1, "2": 1, "5": 2}
    assert checked(json.loads(json.dumps(found.to_dict())), TrainingSetSummary) == (found, "")


@pytest.mark.parametrize(("value", "outside"), [
    (0.4, False), (0.361, False), (0.359, True), (1.099, False), (1.101, True), (float("nan"), False)])
def test_a_tenth_beyond_the_range_is_still_inside(value, outside):
    assert TrainingSetSummary.from_ears(EARS).is_outside("slice_increment_mm", value) is outside


def test_unknown_facts_exclude_nothing():
    found = TrainingSetSummary.from_ears(EARS[["exam_id", "label_code"]])
    assert found.ranges == {} and found.kernels == {} and not found.is_outside("pixel_spacing_mm", 1e6)


def test_a_checkpoint_carries_the_summary_and_an_earlier_one_is_read_without(tmp_path):
    before = Checkpoint(kind=EAR2D, config=RunConfig(), weights={"w": torch.ones(2)}, epoch=1, metric="", value=0.0)
    write_checkpoint(tmp_path / "now.pt", replace(before, trained_on=TrainingSetSummary.from_ears(EARS)))
    assert read_checkpoint(tmp_path / "now.pt", kind=EAR2D).trained_on == TrainingSetSummary.from_ears(EARS)

    class Old:
        def __init__(self):
            self.__dict__.update({name: value for name, value in vars(before).items() if name != "trained_on"})
            self.config = before.config

    write_checkpoint(tmp_path / "before.pt", Old())
    assert read_checkpoint(tmp_path / "before.pt", kind=EAR2D).trained_on is None

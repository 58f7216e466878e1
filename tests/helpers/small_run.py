"""A network of the ear route, trained for one epoch on a small study."""
from pathlib import Path

import pytest

from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study
from medical_fenlei.config import EarSpec

SPEC = EarSpec(num_slices=4, image_size=32, extent="half")
SETS = {"train": "abcdefgh", "tune": "tu", "val": "xyz"}
"""Letters of the exams by set; the exam of a letter is `exam_<letter>`, a patient of its own with two labelled ears."""
RUN, BEST = "outputs/ear", "outputs/ear/checkpoints/best.pt"
"""Paths of the run and of its best checkpoint below the working folder."""


def train_small_run(folder: Path) -> None:
    """Write a study below a folder, and train a network on it."""
    write_study(folder, {name: codes_in_turn(exams, seed) for seed, (name, exams) in enumerate(SETS.items())}, SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train_ear2d", "--pct", 100, "--cache-dir", CACHE, "--backbone", "test_resnet", "--epochs", 1,
                   "--batch-size", 4, "--device", "cpu", "--precision", "fp32", "--output-dir", RUN) == 0

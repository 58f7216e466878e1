"""The settings of a split. Imports nothing slow, so that `--help` answers at once."""
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.settings import check_seed


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How labelled exams are divided into sets."""

    val_ratio: float = 0.2
    """Share of the patients (of the exams, with --by-exam) in the validation set; not with --folds or --val-from."""

    test_ratio: float = 0.0
    """Share in the test set, 0 for none."""

    tune_ratio: float = 0.1
    """Share of the training patients in the tune set, which selects checkpoint and thresholds; 0 for none."""

    ratios: tuple[float, ...] = (0.01, 0.2, 1.0)
    """Amounts of training data, as shares; each training set is part of the next larger one."""

    folds: int = 0
    """Number of cross-validation folds, 0 for a single split."""

    val_from: Path | None = None
    """Earlier splits folder, or a CSV with exam_id: these exams (and all of their patients, unless with --by-exam) validate."""

    min_per_class: int = 1
    """Smallest number of ears of each class in each set; a warning says where it is not met, an error if it was given."""

    seed: int = 42
    """Seed of the assignment."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("val_ratio", "test_ratio", "tune_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 0 and below 1")
        if self.val_ratio + self.test_ratio >= 1 and self.uses_val_ratio:
            raise ValueError(f"val-ratio: {self.val_ratio} and --test-ratio {self.test_ratio} leave nothing to train on")
        if not self.ratios or not all(0 < r <= 1 for r in self.ratios):
            raise ValueError(f"ratios: got {self.ratios}, expected numbers above 0 and up to 1")
        if len({percent(r) for r in self.ratios}) < len(self.ratios) or min(map(percent, self.ratios)) < 1:
            raise ValueError(f"ratios: got {self.ratios}, expected different whole percents")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds: got {self.folds}, expected 0 or at least 2")
        if self.folds and self.val_from:
            raise ValueError("val-from: a fixed validation set and --folds contradict each other; give one of them")
        if self.min_per_class < 0:
            raise ValueError(f"min-per-class: got {self.min_per_class}, expected at least 0")

    @property
    def uses_val_ratio(self) -> bool:
        """Whether `val_ratio` decides the size of the validation set, and neither --folds nor --val-from."""
        return not self.folds and not self.val_from

    def refuse_unused(self, given: Collection[str]) -> None:
        """Raise UserError if the user gave `val_ratio` and it is not used. given: names of the settings that the user gave."""
        if "val_ratio" in given and not self.uses_val_ratio:
            raise UserError(f"--val-ratio: contradicts --{'folds' if self.folds else 'val-from'}; leave one of them out")


def percent(ratio: float) -> int:
    """Return a share in whole percent."""
    return round(100 * ratio)

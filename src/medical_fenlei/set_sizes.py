"""How many patients a set needs for what is fitted, chosen or measured on it, and what makes it larger.

Patients count, not ears, and a patient counts for each class of which there is an ear. The sizes come from simulated sets
(tools/check_set_sizes.py; docs/benchmarks.md). Smaller sets are used all the same, with a warning that names the remedy and,
where something is chosen on them, with a steadier choice.
"""
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import WHOLE_MANIFEST, plural

TO_FIT = 20
"""Patients of each class in the training set: a linear classifier fitted on fewer loses more than 0.03 of AUROC."""
TO_CHOOSE_EPOCH = 5
"""Patients in the tune set beside the most frequent class; with fewer, the AUROC of the chosen epoch has a standard error of
more than 0.02, and the mean loss of EPOCHS_AVERAGED epochs chooses as well, with a smaller one."""
EPOCHS_AVERAGED = 3
"""Epochs whose tune loss is averaged where the tune set is too small for a measure."""
TO_CHOOSE_THRESHOLD = 20
"""Patients of each class in the tune set; with fewer, the sensitivity at Youden's threshold has a standard error of more than
0.07, and the threshold costs more balanced accuracy than 0.5 does for a network whose logits are 0.5 too high."""
TO_FIT_TEMPERATURE = 50
"""Patients in the tune set; with fewer, a temperature may be worse than none."""
TO_MEASURE, TO_MEASURE_A_CLASS = 50, 20
"""Patients in a set that is reported, and patients of its rarest class: from there on intervals have their nominal coverage."""

REMEDIES = {
    "train": "a larger --pct, or make_splits_dual with a smaller --val-ratio or with --folds 10",
    "tune": "make_splits_dual with a larger --tune-ratio",
    "val": "make_splits_dual with a larger --val-ratio, or with --folds, so that every patient is in one validation set",
    "test": "make_splits_dual with a larger --test-ratio",
    WHOLE_MANIFEST: "more patients in --manifest-csv",
}
"""What makes each set larger, apart from more data."""


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """The size of one set for one task."""

    task: Task
    """The task whose classes are counted."""

    ears: int
    """Number of ears within the task."""

    patients: int
    """Number of their patients."""

    of_class: tuple[int, ...]
    """Patients with an ear of each class."""

    @classmethod
    def of(cls, ears: pd.DataFrame, task: Task) -> "SetSize":
        """Count the ears within a task. ears: rows with patient_key and label_code."""
        target, patient = task.targets(ears.label_code.to_numpy()), ears.patient_key.to_numpy()
        within = target != OUTSIDE
        of_class = tuple(pd.unique(patient[target == c]).size for c in range(len(task.classes)))
        return cls(task=task, ears=int(within.sum()), patients=pd.unique(patient[within]).size, of_class=of_class)

    @property
    def rarest(self) -> int:
        """Patients of the rarest class."""
        return min(self.of_class)

    @property
    def beside_largest(self) -> int:
        """Patients of the most frequent class but one: of the rarer class of a binary task."""
        return sorted(self.of_class)[-2]

    def warning(self, name: str, unit: str = "patient") -> str:
        """Return a warning that a set of this name is too small, with the remedy; "" if it is not. unit: what was counted."""
        lacking = [need for need in self._needs(name) if not need.met]
        if not lacking:
            return ""
        classes = ", ".join(f"{number} {label.replace('_', ' ')}"
                            for number, label in zip(self.of_class, self.task.class_names, strict=True))
        are = "is" if self.ears == 1 else "are"
        text = (f"{name} set, {self.task.name}: {plural(self.ears, 'ear')} of {plural(self.patients, unit)} ({classes}) {are} "
                "too few " + ", ".join(f"{need.purpose} (at least {need.size})" for need in lacking))
        steadier = [need.instead for need in lacking if need.instead]
        text += f": {', and '.join(steadier)}" if steadier else ""
        return f"{text}; remedy: {larger_set(name)}".replace("patients", f"{unit}s")

    def _needs(self, name: str) -> list["_Need"]:
        each = "patients of each class"
        if name == "train":
            return [_Need("to fit a network", self.rarest >= TO_FIT, f"{TO_FIT} {each}")]
        if name != "tune":
            met = self.patients >= TO_MEASURE and self.rarest >= TO_MEASURE_A_CLASS
            return [_Need("for reliable intervals", met, f"{TO_MEASURE} patients, {TO_MEASURE_A_CLASS} of each class")]
        kept = (f"the epoch is chosen by the loss averaged over {EPOCHS_AVERAGED} epochs" if self.beside_largest else
                "the last epoch is kept")
        threshold = _Need("to choose a threshold", self.rarest >= TO_CHOOSE_THRESHOLD, f"{TO_CHOOSE_THRESHOLD} {each}",
                          "no threshold chosen on it decides")
        return [_Need("to choose an epoch", self.beside_largest >= TO_CHOOSE_EPOCH,
                      f"{TO_CHOOSE_EPOCH} {each if self.task.binary else 'patients of two classes'}", kept),
                *([threshold] if self.task.binary else []),
                _Need("to fit a temperature", self.patients >= TO_FIT_TEMPERATURE, f"{TO_FIT_TEMPERATURE} patients")]


class _Need(NamedTuple):
    """What a set has to hold for one purpose."""

    purpose: str
    met: bool
    size: str
    instead: str = ""
    """What is done with a set that is too small."""


def larger_set(name: str) -> str:
    """Return what makes a set of this name larger; a name that is none of SETS is that of a cohort."""
    return f"{REMEDIES[name]}; or more data" if name in REMEDIES else "more patients in its manifest"

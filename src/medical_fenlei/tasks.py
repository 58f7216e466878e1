"""Classification tasks over the diagnosis codes. One table serves the loss, the metrics and the columns of the manifest."""
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import DIAGNOSES

OUTSIDE = -1
"""Target of an ear whose code is in no class of the task, or that has no label."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification of ears into classes of diagnosis codes."""

    name: str
    """Name in English."""

    alias: str
    """Name in Chinese, accepted wherever the name is."""

    classes: tuple[tuple[int, ...], ...]
    """Codes of each class in the order of the targets: (negative, positive) for a binary task."""

    @property
    def binary(self) -> bool:
        """Whether the task has two classes."""
        return len(self.classes) == 2

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in English in the order of the targets: both halves of a binary task's name, else the diagnoses."""
        if self.binary:
            return tuple(self.name.split("_vs_"))
        return tuple(DIAGNOSES[codes[0]].english for codes in self.classes)

    @property
    def outputs(self) -> int:
        """Number of logits that a network returns per ear: one for a binary task, else one per class."""
        return 1 if self.binary else len(self.classes)

    @property
    def table(self) -> np.ndarray:
        """Target of each code 0 to 6, int8 (7,); OUTSIDE for codes in no class (0 is "no label")."""
        table = np.full(len(DIAGNOSES) + 1, OUTSIDE, np.int8)
        for target, codes in enumerate(self.classes):
            table[list(codes)] = target
        return table

    def targets(self, code: np.ndarray) -> np.ndarray:
        """Targets of integer codes 0 to 6, int8 of the same shape; OUTSIDE for codes in no class."""
        return self.table[code]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each class, float64 (..., classes), from logits (..., outputs).

        A binary task has the sigmoid of its one logit and of its negative, any other the softmax. Large logits are safe.
        """
        logits = np.asarray(logits, np.float64)
        if self.binary:
            with np.errstate(over="ignore"):                     # exp overflows to inf, the probability is then 0
                return 1 / (1 + np.exp(np.concatenate([logits, -logits], axis=-1)))
        likelihood = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return likelihood / likelihood.sum(axis=-1, keepdims=True)


def _binary(name: str, alias: str, negative: tuple[int, ...], positive: tuple[int, ...]) -> Task:
    return Task(name=name, alias=alias, classes=(negative, positive))


TASKS = {
    task.name: task
    for task in (
        Task(name="six_class", alias="六分类", classes=tuple((code,) for code in DIAGNOSES)),
        _binary("normal_vs_diseased", "正常vs患病", (5,), (1, 2, 3, 4)),
        _binary("normal_vs_abnormal", "正常vs异常", (5,), (1, 2, 3, 4, 6)),
        _binary("normal_vs_csoma", "正常vs慢性化脓性中耳炎", (5,), (1,)),
        _binary("normal_vs_cholesteatoma", "正常vs中耳胆脂瘤", (5,), (2,)),
        _binary("normal_vs_ome", "正常vs分泌性中耳炎", (5,), (3,)),
        _binary("normal_vs_cholesterol_granuloma", "正常vs胆固醇肉芽肿", (5,), (4,)),
        _binary("ome_vs_cholesterol_granuloma", "分泌性中耳炎vs胆固醇肉芽肿", (3,), (4,)),
        _binary("cholesteatoma_vs_csoma", "中耳胆脂瘤vs慢性化脓性中耳炎", (2,), (1,)),
        _binary("cholesteatoma_vs_other_abnormal", "中耳胆脂瘤vs其他异常", (1, 3, 4, 6), (2,)),
    )
}
BINARY_TASKS = tuple(task for task in TASKS.values() if task.binary)


def find_task(name: str, among: Collection[Task] = TASKS.values()) -> Task:
    """The task of this name or Chinese alias. Raises UserError, naming the known tasks."""
    task = next((task for task in among if name in (task.name, task.alias)), None)
    if task is None:
        known = ", ".join(f"{t.name} ({t.alias})" for t in among)
        raise UserError(f"--label-task: got {name!r}, expected one of {known}")
    return task


def find_tasks(names: str, among: Collection[Task] = TASKS.values()) -> tuple[Task, ...]:
    """The tasks of these names or aliases, written `one` or `one,two`. Raises UserError for an unknown or repeated task."""
    tasks = tuple(find_task(name.strip(), among) for name in names.replace("，", ",").split(","))
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError(f"--label-task: got {names!r}, expected each task once")
    return tasks


def with_task_name(stem: str, task: Task, tasks: Sequence[Task]) -> str:
    """The stem of a file about one task of a network: followed by the name of the task if the network has several."""
    return stem if len(tasks) == 1 else f"{stem}_{task.name}"

"""A rare diagnosis from frozen embeddings: simple classifiers, each chosen within the training patients only.

With some 36 positive ears in all, a classifier with many parameters memorises the patients. T training and V validation ears,
D numbers each, standardised by the training ears.
"""
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.embeddings.classifiers import METHODS, Score
from medical_fenlei.embeddings.neighbors import find_neighbors
from medical_fenlei.embeddings.vectors import Embeddings, standardised
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals, PatientBootstrap, canonical_patients
from medical_fenlei.metrics.interval_table import interval_words
from medical_fenlei.tasks import OUTSIDE, Task

FOLDS = 5
ENOUGH_POSITIVE = 10
"""Patients with positive ears below which there is a warning."""
RANKING = ("auroc", "auprc", "sensitivity_at_95_specificity")
"""Measures that depend only on the order of the scores, which are no probabilities."""
NOTHING_CHOSEN = "fewer than two training patients of a class: nothing could be chosen, the most careful settings are taken"

Folds = list[tuple[np.ndarray, np.ndarray]]
"""Numbers of the ears to fit on and of those to check, for each fold."""


@dataclass(frozen=True)
class FewShotResult:
    """The result of a few-shot study, over the V validation ears."""

    scores: pd.DataFrame
    """`tables.FEWSHOT`."""

    neighbors: pd.DataFrame
    """`tables.NEIGHBORS`."""

    chosen: dict[str, dict[str, Any]]
    """`setting`, its cross-validated `auroc` and that of every setting (NaN without folds), and `folds`, by method."""

    intervals: dict[str, Intervals]
    """The measures of RANKING with their intervals, by method."""

    counts: dict[str, dict[str, int]]
    """Positive and negative ears, and their patients, of train and val."""

    train: Embeddings
    """The training ears that were used."""

    warnings: tuple[str, ...]

    def summary(self) -> pd.DataFrame:
        """Return a row per method, as text: the chosen setting, its cross-validated AUROC, and the measures with intervals."""
        return pd.DataFrame([
            {"method": method, "chosen": self.chosen[method]["setting"],
             "cross-validated auroc": f"{self.chosen[method]['auroc']:.3f}",
             **{name: f"{i.estimate:.3f} ({interval_words(i.low, i.high)})" for name, i in intervals.values.items()}}
            for method, intervals in self.intervals.items()])


def few_shot(train: Embeddings, val: Embeddings, task: Task, *, n_resamples: int = 2000) -> FewShotResult:
    """Choose and fit each of METHODS on the training ears of a task, and measure it on the validation ears.

    Neither the order of the ears nor the values of the patient keys change the result. Training ears of a patient who is also
    in validation are left out. Raises UserError if a class has no training ear, if validation has no ear of the task, or if an
    exam has two patients.
    """
    train, val, notes = _select(train, val, task)
    y, truth = (task.targets(ears.label_code).astype(np.int64) for ears in (train, val))
    counts = {"train": _count(train, y), "val": _count(val, truth)}
    _check(train, val, counts, task, notes)

    distinct, ear = np.unique(val.embedding, axis=0, return_inverse=True)      # equal ears get equal scores, to the last bit
    x, query = standardised(train.embedding, distinct)
    folds = list(_folds(train, y))
    if not folds:
        notes.append(NOTHING_CHOSEN)
    chosen, intervals, scores = {}, {}, {}
    for name, (score, settings) in METHODS.items():
        areas = {setting: _cross_validated(score, setting, train.embedding, y, folds) for setting in settings}
        best = max(settings, key=lambda setting: np.nan_to_num(areas[setting], nan=-1))
        chosen[name] = {"setting": best, "auroc": areas[best], "folds": len(folds),
                        "cross_validated_auroc": {str(setting): area for setting, area in areas.items()}}
        scores[f"score_{name}"] = score(x, y, query, best)[ear.reshape(-1)]
        intervals[name] = _intervals(truth, scores[f"score_{name}"], val.patient_key, n_resamples)
    table = tables.FEWSHOT.frame(pd.DataFrame({
        "exam_id": val.exam_id, "side": val.side, "patient_key": val.patient_key, "label_code": val.label_code,
        "y_true": truth, **scores}))
    notes += _cautions(intervals, counts["val"]["positive_patients"])
    return FewShotResult(table, find_neighbors(train, val), chosen, intervals, counts, train, tuple(notes))


def _select(train: Embeddings, val: Embeddings, task: Task) -> tuple[Embeddings, Embeddings, list[str]]:
    """The ears of the task, without training ears of validation patients; and notes about what was left out."""
    _check_patients(train, val)
    train, val = (ears[task.targets(ears.label_code) != OUTSIDE] for ears in (train, val))
    notes = []
    both = np.isin(train.patient_key, val.patient_key)
    if both.any():
        notes.append(f"{both.sum()} training ears are of patients who are validated too; they are left out")
        train = train[~both]
    return train[np.argsort(_content(train), kind="stable")], val, notes


def _check_patients(*files: Embeddings) -> None:
    """Refuse patient keys that differ between the files, or within an exam: they would make two patients of one."""
    key_of: dict[str, str] = {}
    for ears in files:
        for exam, key in zip(ears.exam_id.tolist(), ears.patient_key.tolist(), strict=True):
            if key_of.setdefault(exam, key) != key:
                raise UserError(f"exam {exam} has two patient keys: patients cannot be kept apart; extract both files from one "
                                "manifest")


def _check(train: Embeddings, val: Embeddings, counts: dict[str, dict[str, int]], task: Task, notes: list[str]) -> None:
    """Refuse ears that cannot be fitted or measured."""
    if not len(val) or not all(counts["train"][f"{c}_ears"] for c in ("positive", "negative")):
        raise UserError(f"{task.name}: got {counts['train']['positive_ears']} positive and {counts['train']['negative_ears']} "
                        f"negative training ears and {len(val)} validation ears, expected at least one of each"
                        + "".join(f" ({text})" for text in notes))
    if len(val.embedding[0]) != len(train.embedding[0]):
        raise UserError(f"--val-npz: got {len(val.embedding[0])} numbers an ear, --train-npz has {len(train.embedding[0])}")


def _cautions(intervals: dict[str, Intervals], positive_patients: int) -> list[str]:
    """Warnings that the figures deserve."""
    cautions = sorted({text for i in intervals.values() for text in i.warnings})
    cautions += sorted({f"{name}: {i.reason}" for each in intervals.values() for name, i in each.values.items()
                        if np.isnan(i.low)})
    if positive_patients < ENOUGH_POSITIVE:
        cautions.append(f"only {positive_patients} validation patients with positive ears: resampling them cannot show what "
                        "others would be like")
    return cautions


def _content(ears: Embeddings) -> np.ndarray:
    """A number (N,) for label and embedding of each ear, so that neither its position in a file nor a key matters."""
    return np.unique(np.column_stack([ears.label_code, ears.embedding]), axis=0, return_inverse=True)[1].reshape(-1)


def _count(ears: Embeddings, y: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, of_class in (("positive", y == 1), ("negative", y == 0)):
        counts |= {f"{name}_ears": int(of_class.sum()), f"{name}_patients": len({*ears.patient_key[of_class].tolist()})}
    return counts


def _folds(train: Embeddings, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ears to fit on and ears to check, patients whole and positives spread; none if a class has fewer than two patients."""
    from sklearn.model_selection import StratifiedGroupKFold

    _, patient = canonical_patients(train.patient_key, _content(train))
    folds = min(FOLDS, *(len(np.unique(patient[y == c])) for c in (0, 1)))
    if folds < 2:
        return
    with warnings.catch_warnings():                              # about classes smaller than the number of folds
        warnings.simplefilter("ignore", UserWarning)
        for fit, check in StratifiedGroupKFold(folds).split(y, y, patient):
            if 0 < y[fit].sum() < len(fit) and 0 < y[check].sum() < len(check):
                yield fit, check


def _cross_validated(score: Score, setting: Any, x: np.ndarray, y: np.ndarray, folds: Folds) -> float:
    """AUROC over the pairs within a fold, since scores of different fits have no common scale. NaN without folds."""
    right = pairs = 0.0
    for fit, check in folds:
        fitted, query = standardised(x[fit], x[check])
        area = BinaryMeasures(y[check], score(fitted, y[fit], query, setting))(np.ones((1, len(check))))["auroc"][0]
        here = float(y[check].sum() * (1 - y[check]).sum())
        right, pairs = right + area * here, pairs + here
    return right / pairs if pairs else float("nan")


def _intervals(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, n_resamples: int) -> Intervals:
    measures = BinaryMeasures(truth, score)

    def ranking(weight: np.ndarray) -> dict[str, np.ndarray]:
        values = measures(weight)
        return {name: values[name] for name in RANKING}

    bootstrap = PatientBootstrap(patient=patient, observations=np.column_stack([truth, score]), classes=truth,
                                 n_resamples=n_resamples)
    return bootstrap.intervals(ranking)

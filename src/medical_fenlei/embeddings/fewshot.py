"""A rare diagnosis from frozen embeddings: three simple classifiers, each chosen inside the training patients only.

With some 36 positive ears in all, whatever has many parameters learns the patients by heart. T training and V validation ears,
D numbers each, standardised by the training ears.
"""
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.embeddings.neighbors import neighbours
from medical_fenlei.embeddings.vectors import Embeddings, standardised
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals, canonical_patients, patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.tasks import OUTSIDE, Task

FOLDS = 5
ENOUGH_POSITIVE = 10
"""Patients; with fewer there is a warning."""
RANKING = ("auroc", "auprc", "sensitivity_at_95_specificity")
"""Scores here are no probabilities: only measures that look at their order."""

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, Any], np.ndarray]
"""(fitted on x (T, D), y (T,); asked about (V, D); a setting) to scores (V,), higher is more positive."""


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def prototype(x: np.ndarray, y: np.ndarray, asked: np.ndarray, metric: str) -> np.ndarray:
    """How much closer the mean of the positives is than that of the negatives (Snell 2017, arXiv:1703.05175, equation 2)."""
    if metric == "cosine":
        x, asked = _unit(x), _unit(asked)
    far, near = (((asked - x[y == c].mean(0)) ** 2).sum(1) for c in (0, 1))
    return far - near


def nearest(x: np.ndarray, y: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """How much closer the k nearest positives are than the k nearest negatives, cosine distances, means.

    Each class is asked for its own k, so that a hundred times more negatives do not outvote the positives. (Their share among
    the k nearest of all would be 0 for nearly every ear, and no weight of the classes changes the order of shares.)
    """
    from sklearn.neighbors import NearestNeighbors

    def distance(c: int) -> np.ndarray:
        own = x[y == c]
        search = NearestNeighbors(n_neighbors=min(k, len(own)), metric="cosine", algorithm="brute").fit(own)
        return np.asarray(search.kneighbors(asked)[0].mean(1))

    return distance(0) - distance(1)


def logistic(x: np.ndarray, y: np.ndarray, asked: np.ndarray, c: float) -> np.ndarray:
    """Logit of a regression with a strong L2 penalty (C = c), classes weighed alike."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(x, y)
    return np.asarray(model.decision_function(asked))


METHODS: dict[str, tuple[Score, tuple[Any, ...]]] = {
    "prototype": (prototype, ("cosine", "euclidean")),
    "knn": (nearest, (5, 3, 1)),
    "logistic": (logistic, (1e-4, 1e-3, 1e-2, 1e-1)),
}
"""Each with its settings, the most careful first: it wins where several are equal, or where none can be chosen."""


@dataclass(frozen=True)
class FewShot:
    """What came out, over the V validation ears."""

    scores: pd.DataFrame
    """`tables.FEWSHOT`."""

    neighbours: pd.DataFrame
    """`tables.NEIGHBORS`."""

    chosen: dict[str, dict[str, Any]]
    """Of each method its `setting`, the cross-validated `auroc` of it and of every setting (NaN without folds), and `folds`."""

    intervals: dict[str, Intervals]
    counts: dict[str, dict[str, int]]
    """Of train and val: positive and negative ears, and their patients."""

    train: Embeddings
    """Those that were fitted."""

    warnings: tuple[str, ...]


def few_shot(train: Embeddings, val: Embeddings, task: Task, *, draws: int = 2000) -> FewShot:
    """Neither the order of the ears nor the value of a patient's key changes the result.

    Training ears of a patient who is also validated are left out. Raises UserError where a class has no training ear,
    validation no ear of the task, or an exam two patients.
    """
    _check_persons(train, val)
    train, val = (_of_task(ears, task) for ears in (train, val))
    said = []
    both = np.isin(train.patient_key, val.patient_key)
    if both.any():
        said.append(f"{both.sum()} training ears are of patients who are validated too; they are left out")
        train = train[~both]
    train = train[np.argsort(_content(train), kind="stable")]
    y, truth = (task.targets(ears.label_code).astype(np.int64) for ears in (train, val))
    counts = {"train": _count(train, y), "val": _count(val, truth)}
    if not len(val) or not all(counts["train"][f"{c}_ears"] for c in ("positive", "negative")):
        raise UserError(f"{task.name}: got {counts['train']['positive_ears']} positive and {counts['train']['negative_ears']} "
                        f"negative training ears and {len(val)} validation ears, expected at least one of each"
                        + "".join(f" ({text})" for text in said))
    if len(val.embedding[0]) != len(train.embedding[0]):
        raise UserError(f"--val-npz: got {len(val.embedding[0])} numbers an ear, --train-npz has {len(train.embedding[0])}")

    distinct, ear = np.unique(val.embedding, axis=0, return_inverse=True)      # equal ears get equal scores, to the last bit
    x, asked = standardised(train.embedding, distinct)
    folds = list(_folds(train, y))
    if not folds:
        said.append("fewer than two training patients of a class: nothing could be chosen, the most careful settings are taken")
    chosen, intervals, scores = {}, {}, {}
    for name, (score, settings) in METHODS.items():
        found = {setting: _cross_validated(score, setting, train.embedding, y, folds) for setting in settings}
        best = max(settings, key=lambda setting: np.nan_to_num(found[setting], nan=-1))
        chosen[name] = {"setting": best, "auroc": found[best], "folds": len(folds),
                        "cross_validated_auroc": {str(k): v for k, v in found.items()}}
        scores[f"score_{name}"] = score(x, y, asked, best)[ear.reshape(-1)]
        intervals[name] = _intervals(truth, scores[f"score_{name}"], val.patient_key, draws)
    said += sorted({text for i in intervals.values() for text in i.warnings})
    said += sorted({f"{name}: {i.reason}" for each in intervals.values() for name, i in each.values.items() if np.isnan(i.low)})
    few = counts["val"]["positive_patients"]
    if few < ENOUGH_POSITIVE:
        said.append(f"only {few} validation patients with positive ears: resampling them cannot show what others would be like")
    table = pd.DataFrame({"exam_id": val.exam_id, "side": val.side, "patient_key": val.patient_key,
                          "label_code": val.label_code, "y_true": truth, **scores})
    return FewShot(tables.FEWSHOT.frame(table), neighbours(train, val), chosen, intervals, counts, train, tuple(said))


def _check_persons(*files: Embeddings) -> None:
    """Keys that differ between the files, or within an exam, would make one person two."""
    key_of: dict[str, str] = {}
    for ears in files:
        for exam, key in zip(ears.exam_id.tolist(), ears.patient_key.tolist(), strict=True):
            if key_of.setdefault(exam, key) != key:
                raise UserError(f"exam {exam} has two patient keys: patients cannot be kept apart; extract both files from one "
                                "manifest")


def _of_task(ears: Embeddings, task: Task) -> Embeddings:
    return ears[task.targets(ears.label_code) != OUTSIDE]


def _content(ears: Embeddings) -> np.ndarray:
    """(N,), a number for what is known of each ear, so that neither the order in a file nor a key matters."""
    return np.unique(np.column_stack([ears.label_code, ears.embedding]), axis=0, return_inverse=True)[1].reshape(-1)


def _count(ears: Embeddings, y: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, of_class in (("positive", y == 1), ("negative", y == 0)):
        counts |= {f"{name}_ears": int(of_class.sum()), f"{name}_patients": len({*ears.patient_key[of_class].tolist()})}
    return counts


def _folds(train: Embeddings, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit and check, patients whole and positives spread; none where a class has fewer than two patients."""
    from sklearn.model_selection import StratifiedGroupKFold

    _, patient = canonical_patients(train.patient_key, _content(train))
    folds = min(FOLDS, *(len(np.unique(patient[y == c])) for c in (0, 1)))
    if folds < 2:
        return
    with warnings.catch_warnings():                              # of classes smaller than the number of folds
        warnings.simplefilter("ignore", UserWarning)
        for fit, check in StratifiedGroupKFold(folds).split(y, y, patient):
            if 0 < y[fit].sum() < len(fit) and 0 < y[check].sum() < len(check):
                yield fit, check


def _cross_validated(
    score: Score, setting: Any, x: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    """AUROC over the pairs that stand in one fold: scores of different fits have no common scale. NaN without folds."""
    right = pairs = 0.0
    for fit, check in folds:
        fitted, asked = standardised(x[fit], x[check])
        area = BinaryMeasures(y[check], score(fitted, y[fit], asked, setting))(np.ones((1, len(check))))["auroc"][0]
        here = float(y[check].sum() * (1 - y[check]).sum())
        right, pairs = right + area * here, pairs + here
    return right / pairs if pairs else float("nan")


def _intervals(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, draws: int) -> Intervals:
    measures = BinaryMeasures(truth, score)

    def ranking(weight: np.ndarray) -> dict[str, np.ndarray]:
        values = measures(weight)
        return {name: values[name] for name in RANKING}

    return patient_intervals(ranking, patient, np.column_stack([truth, score]), seed=SEED, draws=draws,
                             classes=truth)

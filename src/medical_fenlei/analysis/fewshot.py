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
from medical_fenlei.analysis.embeddings import Embeddings
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals, canonical_patients, patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.tasks import OUTSIDE, Task

FOLDS = 5
NEIGHBOURS = 5
"""Nearest cases that are named for each ear."""
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

    Each class is asked for its own k, so that a hundred times more negatives do not outvote the positives.
    """
    def distance(c: int) -> np.ndarray:
        each = 1 - _unit(asked) @ _unit(x[y == c]).T
        few = min(k, each.shape[1])
        return np.partition(each, few - 1, axis=1)[:, :few].mean(1)

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
    """`tables.NEIGHBOURS`."""

    chosen: dict[str, dict[str, Any]]
    """Of each method its `setting`, and the cross-validated AUROC of every setting (NaN where none could be measured)."""

    intervals: dict[str, Intervals]
    counts: dict[str, dict[str, int]]
    """Of train and val: positive and negative ears, and their patients."""

    train: Embeddings
    """Those that were fitted."""

    warnings: tuple[str, ...]


def few_shot(train: Embeddings, val: Embeddings, task: Task, *, draws: int = 2000) -> FewShot:
    """Neither the order of the ears nor the value of a patient's key changes the result.

    Training ears of a patient who is also validated are left out. Raises UserError where a class has no training ear, or
    validation no ear of the task.
    """
    train, val = (_of_task(ears, task) for ears in (train, val))
    said = []
    both = np.isin(train.patient_key, val.patient_key)
    if both.any():
        said.append(f"{both.sum()} training ears are of patients who are validated too; they are left out")
        train = train[~both]
    train = train[_order(train)]
    y, truth = (task.targets(ears.label_code).astype(np.int64) for ears in (train, val))
    counts = {"train": _count(train, y), "val": _count(val, truth)}
    if not len(val) or not all(counts["train"][f"{c}_ears"] for c in ("positive", "negative")):
        raise UserError(f"{task.name}: got {counts['train']['positive_ears']} positive and {counts['train']['negative_ears']} "
                        f"negative training ears and {len(val)} validation ears, expected at least one of each")
    if len(val.embedding[0]) != len(train.embedding[0]):
        raise UserError(f"--val-npz: got {len(val.embedding[0])} numbers an ear, --train-npz has {len(train.embedding[0])}")

    x, asked = _standardised(train.embedding, val.embedding)
    folds = list(_folds(train, y))
    if not folds:
        said.append("fewer than two training patients of a class: nothing could be chosen, the most careful settings are taken")
    chosen, intervals, scores = {}, {}, {}
    for name, (score, settings) in METHODS.items():
        found = {setting: _cross_validated(score, setting, train.embedding, y, folds) for setting in settings}
        best = max(settings, key=lambda setting: np.nan_to_num(found[setting], nan=-1))
        chosen[name] = {"setting": best, "cross_validated_auroc": {str(k): v for k, v in found.items()}}
        scores[f"score_{name}"] = score(x, y, asked, best)
        intervals[name] = _intervals(truth, scores[f"score_{name}"], val.patient_key, draws)
    said += sorted({text for i in intervals.values() for text in i.warnings})
    few = counts["val"]["positive_patients"]
    if few < ENOUGH_POSITIVE:
        said.append(f"only {few} validation patients with positive ears: resampling them cannot show what others would be like")
    table = pd.DataFrame({"exam_id": val.exam_id, "side": val.side, "patient_key": val.patient_key,
                          "label_code": val.label_code, "y_true": truth, **scores})
    return FewShot(tables.FEWSHOT.frame(table), neighbours(train, val), chosen, intervals, counts, train, tuple(said))


def neighbours(train: Embeddings, val: Embeddings, *, most: int = NEIGHBOURS) -> pd.DataFrame:
    """`tables.NEIGHBOURS`: of each validation ear the nearest training ears by cosine distance, never of the same patient."""
    x, asked = _standardised(train.embedding, val.embedding)
    distance = 1 - _unit(asked) @ _unit(x).T
    distance[val.patient_key[:, None] == train.patient_key[None]] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :most]
    rows = [{"exam_id": val.exam_id[v], "side": val.side[v], "label_code": val.label_code[v], "rank": rank,
             "neighbour_exam_id": train.exam_id[t], "neighbour_side": train.side[t],
             "neighbour_label_code": train.label_code[t], "distance": distance[v, t]}
            for v, near in enumerate(order) for rank, t in enumerate(near, 1) if np.isfinite(distance[v, t])]
    return tables.NEIGHBOURS.frame(rows)


def _of_task(ears: Embeddings, task: Task) -> Embeddings:
    return ears[task.targets(ears.label_code) != OUTSIDE]


def _order(ears: Embeddings) -> np.ndarray:
    """By what is known of each ear, so that the order in a file does not matter."""
    return np.lexsort((*ears.embedding.T[:8][::-1], ears.label_code))


def _count(ears: Embeddings, y: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, of_class in (("positive", y == 1), ("negative", y == 0)):
        counts |= {f"{name}_ears": int(of_class.sum()), f"{name}_patients": len({*ears.patient_key[of_class].tolist()})}
    return counts


def _standardised(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean 0 and deviation 1 over the training ears, float64; a number that never changes becomes 0."""
    train = train.astype(np.float64)
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation < 1e-9] = np.inf
    return tuple((np.asarray(x, np.float64) - mean) / deviation for x in (train, *others))


def _folds(train: Embeddings, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit and check, patients whole and positives spread; none where a class has fewer than two patients."""
    from sklearn.model_selection import StratifiedGroupKFold

    content = np.column_stack([train.label_code, train.embedding[:, :8]])
    _, patient = canonical_patients(train.patient_key, content)
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
        fitted, asked = _standardised(x[fit], x[check])
        area = BinaryMeasures(y[check], score(fitted, y[fit], asked, setting))(np.ones((1, len(check))))["auroc"][0]
        here = float(y[check].sum() * (1 - y[check]).sum())
        right, pairs = right + area * here, pairs + here
    return right / pairs if pairs else float("nan")


def _intervals(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, draws: int) -> Intervals:
    measures = BinaryMeasures(truth, score)

    def ranking(weight: np.ndarray) -> dict[str, np.ndarray]:
        values = measures(weight)
        return {name: values[name] for name in RANKING}

    return patient_intervals(ranking, patient, np.column_stack([truth, score]), seed=SEED, draws=draws)

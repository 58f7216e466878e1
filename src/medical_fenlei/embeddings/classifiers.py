"""Three simple binary classifiers of embeddings for few positive examples.

Each is fitted on x (T, D), y (T,) in {0, 1}, and returns scores (V,) of a query (V, D); higher is more positive.
"""
from collections.abc import Callable
from typing import Any

import numpy as np

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, Any], np.ndarray]
"""A classifier: x (T, D), y (T,), query (V, D) and a setting to scores (V,)."""


def score_by_prototype(x: np.ndarray, y: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """How much closer the mean of the positives is than that of the negatives (Snell 2017, arXiv:1703.05175, equation 2)."""
    if metric == "cosine":
        x, query = _unit(x), _unit(query)
    far, near = (((query - x[y == c].mean(0)) ** 2).sum(1) for c in (0, 1))
    return far - near


def score_by_neighbors(x: np.ndarray, y: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """How much closer the k nearest positives are than the k nearest negatives: difference of their mean cosine distances.

    Each class has its own k neighbors, so that a hundred times more negatives do not outvote the positives. (The share of
    positives among the k nearest of all would be 0 for nearly every ear, and class weights do not change the order of shares.)
    """
    from sklearn.neighbors import NearestNeighbors

    def distance(c: int) -> np.ndarray:
        own = x[y == c]
        search = NearestNeighbors(n_neighbors=min(k, len(own)), metric="cosine", algorithm="brute").fit(own)
        return np.asarray(search.kneighbors(query)[0].mean(1))

    return distance(0) - distance(1)


def score_by_regression(x: np.ndarray, y: np.ndarray, query: np.ndarray, c: float) -> np.ndarray:
    """Logit of a logistic regression with a strong L2 penalty (C = c) and balanced class weights."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(x, y)
    return np.asarray(model.decision_function(query))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


METHODS: dict[str, tuple[Score, tuple[Any, ...]]] = {
    "prototype": (score_by_prototype, ("cosine", "euclidean")),
    "knn": (score_by_neighbors, (5, 3, 1)),
    "logistic": (score_by_regression, (1e-4, 1e-3, 1e-2, 1e-1)),
}
"""Each classifier with its settings, the most conservative first: it is taken if several are equal, or none can be chosen."""

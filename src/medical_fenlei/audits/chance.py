"""Is the network better than chance? A permutation test that keeps the ears of a patient together."""
from collections.abc import Iterator

import numpy as np
import pandas as pd

from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.auroc import auroc
from medical_fenlei.metrics.bootstrap import SEED, canonical_patients

PERMUTATIONS = 1000
SIGNIFICANT = 0.05
"""p value below which the network is better than chance."""


def audit_chance(ears: pd.DataFrame, *, permutations: int = PERMUTATIONS) -> Audit:
    """Compare the AUROC with that of permuted labels. ears: `binary_view`."""
    question, figure = "Is it better than chance?", "AUROC against shuffled labels"
    y, score = ears.y.to_numpy(), ears.score.to_numpy()
    observed = auroc(y, score)
    if np.isnan(observed):
        return Audit.undecided(question, figure, "one class has no ears")
    permuted = [auroc(labels, score) for labels in _permuted_labels(ears, permutations)]
    low, high = np.quantile(permuted, [0.025, 0.975])
    p = (1 + sum(value >= observed for value in permuted)) / (1 + permutations)
    return Audit(
        question=question, figure=figure, estimate=float(np.mean(permuted)), low=float(low), high=float(high),
        verdict="ok" if p < SIGNIFICANT else "look",
        explanation=f"the true labels give {observed:.3f}; p = {p:.3f} of {permutations} permutations")


def _permuted_labels(ears: pd.DataFrame, permutations: int) -> Iterator[np.ndarray]:
    """Labels (N,) after each permutation: patients exchange their labels with patients that have as many ears."""
    y = ears.y.to_numpy()
    number, of_ear = canonical_patients(ears.patient_key.to_numpy(), np.column_stack([y, ears.score]))
    order = np.argsort(of_ear, kind="stable")                    # ears by patient
    first = np.searchsorted(of_ear[order], np.arange(number))    # position of each patient's first ear in this order
    count = np.bincount(of_ear, minlength=number)
    rng = np.random.default_rng(SEED)
    for _ in range(permutations):
        labels = np.empty(len(y), int)
        for size in np.unique(count):
            patients = np.flatnonzero(count == size)
            target = first[patients][:, None] + np.arange(size)
            source = first[rng.permutation(patients)][:, None] + rng.permuted(
                np.tile(np.arange(size), (len(patients), 1)), axis=1)
            labels[order[target]] = y[order[source]]
        yield labels

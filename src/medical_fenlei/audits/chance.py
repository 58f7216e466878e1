"""Is the network better than chance? A permutation test that keeps the ears of a patient together."""
from collections.abc import Iterator

import numpy as np
import pandas as pd

from medical_fenlei.audits.audit import Audit, fewest_of_a_class
from medical_fenlei.audits.auroc import auroc
from medical_fenlei.audits.verdicts import ENOUGH, THRESHOLDS
from medical_fenlei.metrics.bootstrap import SEED, canonical_patients

PERMUTATIONS = 1000


def audit_chance(ears: pd.DataFrame, *, permutations: int = PERMUTATIONS) -> Audit:
    """Compare the AUROC with that of permuted labels. ears: `binary_view`.

    The figure is the AUROC of the true labels; its interval, which is judged, has as much room on both sides as permuted labels
    have, and ends at 0 and 1. The explanation tells what permuted labels give.
    """
    question, figure = "Is it better than chance?", "AUROC"
    y, score, patients = ears.y.to_numpy(), ears.score.to_numpy(), ears.patient_key.nunique()
    observed, fewest = auroc(y, score), fewest_of_a_class(y)
    if fewest < ENOUGH:
        return Audit.undecided(question, figure, f"ears of the rarer class: {fewest}", patients=patients, found=fewest)
    permuted = [auroc(labels, score) for labels in _permuted_labels(ears, permutations)]
    low, high = np.quantile(permuted, [0.025, 0.975])
    p = (1 + sum(value >= observed for value in permuted)) / (1 + permutations)
    mean, law = float(np.mean(permuted)), THRESHOLDS["chance"]
    ends = observed - (high - mean), observed + (mean - low)
    verdict, needed = law.verdict(*ends), None
    explanation = f"shuffled labels give {mean:.3f} ({low:.3f} to {high:.3f}); p = {p:.3f} of {permutations} permutations"
    if verdict == "undecided":
        needed = law.patients_to_decide(patients, *ends)
        explanation += (f": neither chance nor {law.sound:g} is excluded; about {needed} patients like these {patients} would "
                        "decide")
    low, high = (float(min(1.0, max(0.0, end))) for end in ends)
    return Audit(question=question, figure=figure, estimate=observed, low=low, high=high, verdict=verdict,
                 explanation=explanation, patients_to_decide=needed)


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

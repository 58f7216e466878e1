"""What predicts the label without the disease: the scanner, age and sex, the other ear."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.auroc import auroc, auroc_interval, auroc_within_groups
from medical_fenlei.audits.verdicts import ENOUGH
from medical_fenlei.cohort.groupings import labelled_ears
from medical_fenlei.metrics.bootstrap import PatientBootstrap
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import NORMAL, Side, vendor


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    """Facts about an ear that need no image, and the audit question about them."""

    question: str
    described_as: str
    """The facts in plain words."""

    names: tuple[str, ...]
    """Categorical columns."""

    numbers: tuple[str, ...]
    """Numeric columns."""

    thresholds: str
    """Name in `verdicts.THRESHOLDS`."""


SCANNER = _Metadata(
    question="Does the scanner give the label away?", described_as="scanner, kernel, spacing and date",
    names=("manufacturer", "model", "kernel", "transfer_syntax"), thresholds="scanner",
    numbers=("rows", "pixel_spacing_mm", "slice_thickness_mm", "slice_increment_mm", "n_instances", "kvp", "day"))
PERSON = _Metadata(question="Do age and sex give the label away?", described_as="age and sex", names=("sex",),
                   numbers=("age_years",), thresholds="age and sex")


def audit_metadata(
    ears: pd.DataFrame, manifest: pd.DataFrame, task: Task, training: pd.DataFrame, *, n_resamples: int
) -> list[Audit]:
    """Measure a logistic regression that sees no image: on what the scan's header says, and on age and sex.

    ears: `binary_view`; manifest: that of the ears; training: manifest rows of the training set. The answer about the scanner
    also gives the AUROC of the network among ears with a similar metadata score (within its thirds), and the fact that predicts
    most by itself.
    """
    train, facts = _metadata_of(training, task), _metadata_of(manifest, task)
    audited = ears[["exam_id", "side"]].merge(facts, on=["exam_id", "side"], how="left")
    return [_audit_facts(metadata, ears, train, audited, n_resamples=n_resamples) for metadata in (SCANNER, PERSON)]


def _metadata_of(manifest: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The columns of SCANNER and PERSON, with exam_id, side and y (0 or 1), for each labelled ear within the task."""
    ears = labelled_ears(manifest)
    codes = ears.label_code.to_numpy()
    y = task.targets(codes) if task.binary else (codes != NORMAL).astype(int)
    date = pd.to_datetime(ears.date, errors="coerce")
    day = (date - pd.Timestamp(2000, 1, 1)).dt.days.astype("float64")
    return ears.assign(day=day, manufacturer=ears.manufacturer.map(vendor), y=y)[y != OUTSIDE]


def _audit_facts(
    metadata: _Metadata, ears: pd.DataFrame, train: pd.DataFrame, audited: pd.DataFrame, *, n_resamples: int
) -> Audit:
    """Fit the metadata of the training ears, and measure the fit on the audited ears (rows of `ears`, with their metadata)."""
    question, figure = metadata.question, f"AUROC of {metadata.described_as}, without the image"
    (n0, n1), (m0, m1) = (np.bincount(y, minlength=2) for y in (train.y, ears.y))
    patients = ears.patient_key.nunique()
    if min(n0, n1, m0, m1) < ENOUGH:
        return Audit.undecided(question, figure, f"negative and positive ears: {n0} and {n1} in training, {m0} and {m1} in "
                               f"this set, at least {ENOUGH} of each needed", patients=patients,
                               found=min(m0, m1) if min(m0, m1) < ENOUGH else 0)
    score = _metadata_score(train, audited, metadata.names, metadata.numbers)
    interval = auroc_interval(ears, score, n_resamples=n_resamples)
    if metadata is PERSON:
        explanation = "a reader knows them too; a high figure means that age or sex differ by diagnosis"
    else:
        best, alone = _strongest_fact(metadata, ears, train, audited)
        explanation = (f"most by {best} ({alone:.2f} alone); among ears with similar metadata the network has an AUROC of "
                       f"{_auroc_within_thirds(ears, score):.2f}")
    return Audit.from_interval(question, figure, interval, thresholds=metadata.thresholds, patients=patients,
                               explanation=explanation)


def _strongest_fact(
    metadata: _Metadata, ears: pd.DataFrame, train: pd.DataFrame, audited: pd.DataFrame
) -> tuple[str, float]:
    """The fact whose own regression has the greatest AUROC, and this AUROC."""
    y = ears.y.to_numpy()
    alone = {name: auroc(y, _metadata_score(train, audited, (name,), ())) for name in metadata.names}
    alone |= {name: auroc(y, _metadata_score(train, audited, (), (name,))) for name in metadata.numbers}
    return max(alone.items(), key=lambda fact: fact[1])


def _metadata_score(train: pd.DataFrame, audited: pd.DataFrame, names: Sequence[str], numbers: Sequence[str]) -> np.ndarray:
    """Probability (N,) of the positive class for the audited ears, by a logistic regression on these columns.

    A missing number becomes the median, and its absence a feature of its own.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    fit, predict = (frame[[*names, *numbers]].astype({name: "float64" for name in numbers}) for frame in (train, audited))
    filled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler())
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore", min_frequency=2), list(names)),
                                      (filled, list(numbers)))
    model = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(fit, train.y)
    probability: np.ndarray = model.predict_proba(predict)[:, 1]
    return probability


def _auroc_within_thirds(ears: pd.DataFrame, metadata_score: np.ndarray) -> float:
    """AUROC of the network over pairs of ears whose metadata scores (N,) are in the same third."""
    third = np.searchsorted(np.quantile(metadata_score, [1 / 3, 2 / 3]), metadata_score)
    measures = auroc_within_groups(ears.y.to_numpy(), ears.score.to_numpy(), third)
    return measures(np.ones((1, len(ears))))["auroc"].item()


def audit_other_ear(ears: pd.DataFrame, *, n_resamples: int) -> Audit:
    """Among ears with the same label, do those whose other ear is diseased score higher? ears: `binary_view`."""
    question = "Does the other ear decide?"
    figure = "AUROC of the score for the other ear's label, among ears of one label"
    other = ears[["exam_id", "side", "y"]].assign(side=ears.side.map({str(side): str(side.other) for side in Side}))
    pairs = ears.merge(other.rename(columns={"y": "other"}), on=["exam_id", "side"])
    counts = pairs.groupby(["y", "other"]).size()
    informative = sum(int(min(counts.get((y, 0), 0), counts.get((y, 1), 0))) for y in (0, 1))
    patients = ears.patient_key.nunique()
    if informative < ENOUGH:
        return Audit.undecided(question, figure, f"ears that differ from their other one: {informative}", patients=patients,
                               found=informative)
    y, other_y, score = pairs.y.to_numpy(), pairs.other.to_numpy(), pairs.score.to_numpy()
    bootstrap = PatientBootstrap(patient=pairs.patient_key.to_numpy(), observations=np.column_stack([y, other_y, score]),
                                 n_resamples=n_resamples)
    interval = bootstrap.intervals(auroc_within_groups(other_y, score, group=y)).values["auroc"]
    alike = "a patient's ears resemble each other, in disease and in the scan; check whether the network uses more than the ear"
    none = "0.5 means no influence of the other ear"
    return Audit.from_interval(question, figure, interval, thresholds="other ear", patients=patients,
                               explanation={"ok": none, "look": alike, "undecided": none})

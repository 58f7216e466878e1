"""Questions that a good figure has to stand: is it the disease that is seen, or something that goes along with the label?

Each answer is a figure with an interval (patients resampled) and a plain verdict. What is audited is binary: the task's own
classes, or of several classes normal against the others.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groups import labelled_ears
from medical_fenlei.config import DataConfig
from medical_fenlei.leakage.same_pixels import cached_marks, caches
from medical_fenlei.leakage.shared import shared_exams, shared_marks, shared_patients, study_marks
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Interval, canonical_patients, patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import NORMAL, vendor

Verdict = Literal["ok", "look", "wrong", "undecided"]

ENOUGH = 10
"""Exams, or ears of a class, below which a question stays open."""
WEAK, STRONG = 0.6, 0.75
"""AUROC of a shortcut that deserves a look, and one that discredits the result."""
SCAN_NAMES = ("manufacturer", "model", "kernel", "transfer_syntax")
SCAN_NUMBERS = ("rows", "pixel_spacing_mm", "slice_thickness_mm", "slice_increment_mm", "n_instances", "kvp", "day")
PERMUTATIONS = 1000


@dataclass(frozen=True)
class Audit:
    """The answer to one question."""

    question: str
    figure: str
    """What the estimate is."""

    estimate: float
    low: float
    high: float
    verdict: Verdict
    words: str
    """One plain sentence."""


def binary_view(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """exam_id, side, patient_key, label_code, y (0 or 1) and score of the ears that the task concerns."""
    known = predictions[predictions.y_true != OUTSIDE].reset_index(drop=True)
    names = ["exam_id", "side", "patient_key", "label_code"]
    if task.binary:
        return known[names].assign(y=known.y_true.astype(int), score=known.y_prob)
    normal = f"prob_{NORMAL}"
    return known[names].assign(y=(known.label_code != NORMAL).astype(int), score=1 - known[normal])


def scan_facts(manifest: pd.DataFrame) -> pd.DataFrame:
    """What a scan says of itself, of each labelled ear: exam_id, side, label_code, SCAN_NAMES, SCAN_NUMBERS, age_years, sex."""
    ears = labelled_ears(manifest)
    day = pd.to_datetime(ears.date, errors="coerce")
    days = (day - pd.Timestamp(2000, 1, 1)).dt.days.astype("float64")
    return ears.assign(day=days, manufacturer=ears.manufacturer.map(vendor))


def metadata_baseline(
    ears: pd.DataFrame, manifest: pd.DataFrame, task: Task, fitted_on: Sequence[str], *, draws: int
) -> list[Audit]:
    """What a logistic regression that never sees an image reaches on these ears: from the scan alone, and from age and sex.

    ears: `binary_view`; fitted_on: the exams of the training set. The scan's answer also says how well the network does among
    ears that the scan alone cannot tell apart (within thirds of its score), and which single fact says most.
    """
    facts = scan_facts(manifest)
    y = task.targets(facts.label_code.to_numpy()) if task.binary else (facts.label_code != NORMAL).to_numpy().astype(int)
    facts = facts.assign(y=y)[y != OUTSIDE]
    train = facts[facts.exam_id.isin(fitted_on)]
    asked = ears[["exam_id", "side"]].merge(facts, on=["exam_id", "side"], how="left")
    found = []
    for question, names, numbers, harmless in (
        ("Does the scanner give the label away?", SCAN_NAMES, SCAN_NUMBERS, False),
        ("Do age and sex give the label away?", ("sex",), ("age_years",), True),
    ):
        figure = "AUROC of " + ("scanner, kernel, spacing and date" if not harmless else "age and sex") + ", without the image"
        counts = np.bincount(train.y, minlength=2), np.bincount(ears.y, minlength=2)
        if min(map(min, counts)) < ENOUGH:
            found.append(Audit(question, figure, np.nan, np.nan, np.nan, "undecided",
                               f"{counts[0][0]} and {counts[0][1]} training ears, {counts[1][0]} and {counts[1][1]} here"))
            continue
        score = _without_image(train, asked, names, numbers)
        i = _auroc(ears, score, draws)
        if harmless:
            words = "they are known to a reader too; a high figure says that the sets' people differ by diagnosis"
        else:
            alone = {name: float(BinaryMeasures(ears.y.to_numpy(), _without_image(
                train, asked, [name] if name in names else [], [name] if name in numbers else []))(
                    np.ones((1, len(ears))))["auroc"][0]) for name in (*names, *numbers)}
            best = max(alone, key=lambda name: alone[name])
            words = (f"most by {best} ({alone[best]:.2f} alone); among ears alike in this the network has an AUROC of "
                     f"{_within_thirds(ears, score):.2f}")
        found.append(Audit(question, figure, *i[:3], _of_shortcut(i, harmless=harmless), words))
    return found


def _of_shortcut(i: Interval, *, harmless: bool = False) -> Verdict:
    if np.isnan(i.low):
        return "undecided"
    if i.low > WEAK and i.estimate > STRONG and not harmless:
        return "wrong"
    return "look" if i.low > 0.5 and i.estimate > WEAK else "ok"


def _without_image(train: pd.DataFrame, asked: pd.DataFrame, names: Sequence[str], numbers: Sequence[str]) -> np.ndarray:
    """(N,), the probability of a logistic regression on these columns; a missing number is the median, and a fact in itself."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frames = [frame[[*names, *numbers]].astype({name: "float64" for name in numbers}) for frame in (train, asked)]
    filled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler())
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore", min_frequency=2), list(names)),
                                      (filled, list(numbers)))
    model = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(frames[0], train.y)
    probability: np.ndarray = model.predict_proba(frames[1])[:, 1]
    return probability


def _within_thirds(ears: pd.DataFrame, by: np.ndarray) -> float:
    """AUROC of the score over pairs of ears that stand in one third of `by`."""
    third = np.searchsorted(np.quantile(by, [1 / 3, 2 / 3]), by)
    return _paired_within(ears.y.to_numpy(), ears.score.to_numpy(), third)(np.ones((1, len(ears))))["auroc"].item()


def _paired_within(y: np.ndarray, score: np.ndarray, group: np.ndarray) -> "_Within":
    return _Within([(BinaryMeasures(y[group == g], score[group == g]), group == g, y[group == g]) for g in np.unique(group)])


class _Within:
    """AUROC over pairs within groups, as measures (weights (R, N) to `auroc` (R,))."""

    def __init__(self, groups: list[tuple[BinaryMeasures, np.ndarray, np.ndarray]]) -> None:
        self._groups = groups

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        right, pairs = np.zeros(len(weight)), np.zeros(len(weight))
        for measures, own, y in self._groups:
            w = weight[:, own]
            here = (w @ y) * (w @ (1 - y))
            right += np.where(here > 0, np.nan_to_num(measures(w)["auroc"]) * here, 0)
            pairs += here
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"auroc": right / pairs}


def _auroc(ears: pd.DataFrame, score: np.ndarray, draws: int) -> Interval:
    measures = BinaryMeasures(ears.y.to_numpy(), score)
    return patient_intervals(lambda weight: {"auroc": measures(weight)["auroc"]}, ears.patient_key.to_numpy(),
                             np.column_stack([ears.y, score]), seed=SEED, draws=draws).values["auroc"]


def other_ear(ears: pd.DataFrame, *, draws: int) -> Audit:
    """Among ears of one label, do those whose other ear is diseased score higher? ears: `binary_view`."""
    question = "Does the other ear decide?"
    figure = "AUROC of the score for the other ear's label, among ears of one label"
    other = ears[["exam_id", "side", "y"]].assign(side=ears.side.map({"left": "right", "right": "left"}))
    known = ears.merge(other.rename(columns={"y": "other"}), on=["exam_id", "side"])
    counts = known.groupby(["y", "other"]).size()
    informative = sum(int(min(counts.get((y, 0), 0), counts.get((y, 1), 0))) for y in (0, 1))
    if informative < ENOUGH:
        return Audit(question, figure, np.nan, np.nan, np.nan, "undecided",
                     f"only {informative} ears differ from their other one")
    other_y, score, own = known.other.to_numpy(), known.score.to_numpy(), known.y.to_numpy()
    i = patient_intervals(_paired_within(other_y, score, own), known.patient_key.to_numpy(),
                          np.column_stack([own, other_y, score]), seed=SEED, draws=draws).values["auroc"]
    verdict = _of_shortcut(i, harmless=True)
    words = ("0.5 is none of it" if verdict == "ok" else "a patient's ears resemble each other, in disease and in the scan; "
             "see whether the network sees beyond the ear")
    return Audit(question, figure, *i[:3], verdict, words)


def shuffled_labels(ears: pd.DataFrame, *, permutations: int = PERMUTATIONS) -> Audit:
    """What AUROC would chance give? The labels of whole patients are exchanged with those of patients with as many ears."""
    question, figure = "Is it better than chance?", "AUROC against shuffled labels"
    y, score = ears.y.to_numpy(), ears.score.to_numpy()
    seen = float(BinaryMeasures(y, score)(np.ones((1, len(y))))["auroc"][0])
    if np.isnan(seen):
        return Audit(question, figure, np.nan, np.nan, np.nan, "undecided", "one class has no ears")
    number, of_ear = canonical_patients(ears.patient_key.to_numpy(), np.column_stack([y, score]))
    order = np.argsort(of_ear, kind="stable")
    first = np.searchsorted(of_ear[order], np.arange(number))
    count = np.bincount(of_ear, minlength=number)
    rng, found = np.random.default_rng(SEED), []
    for _ in range(permutations):
        label = np.empty(len(y), int)
        for size in np.unique(count):
            own = np.flatnonzero(count == size)
            takes = first[own][:, None] + np.arange(size)
            gives = first[rng.permutation(own)][:, None] + rng.permuted(np.tile(np.arange(size), (len(own), 1)), axis=1)
            label[order[takes]] = y[order[gives]]
        found.append(float(BinaryMeasures(label, score)(np.ones((1, len(y))))["auroc"][0]))
    low, high = np.quantile(found, [0.025, 0.975])
    p = (1 + sum(value >= seen for value in found)) / (1 + permutations)
    return Audit(question, figure, float(np.mean(found)), float(low), float(high), "ok" if p < 0.05 else "look",
                 f"the true labels give {seen:.3f}; p = {p:.3f} of {permutations} permutations")


def leakage(data: DataConfig, cache_key: str) -> Audit:
    """How many patients, exams or scans stand on both sides of the run's split, or under several patients."""
    manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
    marks = [study_marks(manifest), *(cached_marks(folder) for folder in caches(data.cache_dir) if folder.name == cache_key)]
    same = shared_marks(pd.concat(marks, ignore_index=True), manifest, [split])
    same = same[same.leak]
    counts = {"patients in several sets": shared_patients(manifest, [split]).patient_key.nunique(),
              "exams in several sets": shared_exams([split]).exam_id.nunique(),
              "groups of exams that hold the same": same.exam_ids.nunique()}
    number = sum(counts.values())
    words = ", ".join(f"{count} {what}" for what, count in counts.items())
    if not split.by_patient:
        words += "; the split was made without --patient-split"
    return Audit("Does the test leak into the training?", "what stands on both sides", float(number), np.nan, np.nan,
                 "wrong" if number else "ok", words + ("; check_patient_leakage names them" if number else ""))

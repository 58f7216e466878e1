"""Which labels should be read again: those that a network, trained on or beside them, never came to believe.

A wrong label in the training set is learnt last, if at all (Swayamdipta 2020, arXiv:2009.10795), so what the network answered
to each training ear is followed over the epochs; in other sets the final, confident disagreement counts (Northcutt 2021,
arXiv:1911.00068).
"""
import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.analysis.audits import ENOUGH, Audit
from medical_fenlei.metrics.bootstrap import patient_intervals
from medical_fenlei.metrics.predictions import SEED, surprise
from medical_fenlei.tasks import OUTSIDE, Task


def agreement_over_epochs(answers: np.ndarray, target: np.ndarray, task: Task) -> np.ndarray:
    """(epochs, N), the probability that the network gave to each ear's label; NaN where it did not see it.

    answers (epochs, N, outputs of the task); target (N,), OUTSIDE is NaN.
    """
    logits = answers.astype(np.float64)
    if task.binary:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=2)
    with np.errstate(invalid="ignore"):
        each = np.exp(logits - logits.max(2, keepdims=True))
        each /= each.sum(2, keepdims=True)
    own = each[:, np.arange(len(target)), np.maximum(target, 0)]
    own[:, target == OUTSIDE] = np.nan
    return own


def doubts_in_training(ears: pd.DataFrame, answers: np.ndarray, task: Task) -> pd.DataFrame:
    """Of the training ears: exam_id, side, label_code, `doubt` (mean surprise over the epochs), `agreement` (share of epochs in
    which the label was the most probable class), `epochs` (how many saw it), `first_agreed` (the first of those, missing if
    none). ears: `tables.ANSWERED`; answers (epochs, N, outputs of the task)."""
    target = task.targets(ears.label_code.to_numpy())
    given = agreement_over_epochs(answers, target, task)
    known = target != OUTSIDE
    given, ears = given[:, known], ears[known].reset_index(drop=True)
    most = 0.5 if task.binary else 1 / len(task.classes)
    agreed, seen = given > most, ~np.isnan(given)
    times = seen.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        doubt = np.where(seen, -np.log(np.maximum(given, 1e-6)), 0).sum(0) / times
        share = (agreed & seen).sum(0) / times
    first = pd.Series(agreed.argmax(0) + 1, dtype="Int64").where(np.asarray(agreed.any(axis=0)))
    return ears.assign(doubt=doubt, agreement=share, epochs=times, first_agreed=first)


def doubts_elsewhere(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The same of ears that were not trained on, from the final prediction alone."""
    known = predictions[predictions.y_true != OUTSIDE].reset_index(drop=True)
    none = pd.Series(pd.NA, known.index, dtype="Int64")
    return known[["exam_id", "side", "label_code"]].assign(
        doubt=surprise(known, task), agreement=(known.y_true == known.y_pred).astype(float), epochs=none, first_agreed=none)


def suspects(doubts: dict[str, pd.DataFrame], manifest: pd.DataFrame) -> pd.DataFrame:
    """`tables.SUSPECTS`, by set. Sets are ranked each by itself and then interleaved by the share of the set that stands above:
    surprise over epochs and surprise at the end have no common scale."""
    parts = []
    for name, own in doubts.items():
        order = own.doubt.rank(ascending=False, method="first", na_option="bottom")
        parts.append(own.assign(set=name, place=(order - 0.5) / max(len(own), 1)))
    table = pd.concat(parts, ignore_index=True).sort_values("place", kind="stable", ignore_index=True)
    dates = manifest[["exam_id", "side", "date_match"]]
    table = table.merge(dates, on=["exam_id", "side"], how="left")
    matched = table.date_match.fillna(False).astype(bool)
    return tables.SUSPECTS.frame(table.assign(rank=np.arange(1, len(table) + 1), date_match=matched).drop(columns="place"))


def by_date(table: pd.DataFrame, patient_of: pd.Series, *, draws: int, top: float = 0.15) -> Audit:
    """Do doubtful labels stand more often where the sheet's date is not the folder's?

    table: `tables.SUSPECTS`; patient_of: patient keys by exam; top: the share of the list that is looked at.
    """
    question = "Are labels doubtful where dates differ?"
    figure = f"share among the {top:.0%} most doubtful labels, where dates differ less where they agree"
    number = (~table.date_match).sum(), table.date_match.sum()
    if min(number) < ENOUGH:
        return Audit(question, figure, np.nan, np.nan, np.nan, "undecided",
                     f"dates differ in {number[0]} of {sum(number)} ears")
    doubtful = (table["rank"] <= top * len(table)).to_numpy(np.float64)
    differs = (~table.date_match).to_numpy(np.float64)

    def difference(weight: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = [weight @ (doubtful * group) / (weight @ group) for group in (differs, 1 - differs)]
        return {"difference": shares[0] - shares[1]}

    i = patient_intervals(difference, table.exam_id.map(patient_of).to_numpy(), np.column_stack([doubtful, differs]), seed=SEED,
                          draws=draws, unbounded=("difference",)).values["difference"]
    return Audit(question, figure, *i[:3], "look" if i.low > 0 else "ok",
                 "the matching by exam id may have gone wrong" if i.low > 0 else "no more than where they agree")

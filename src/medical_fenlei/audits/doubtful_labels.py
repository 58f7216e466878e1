"""Which labels should be read again: those that a network, trained on or beside them, never came to believe.

Two signs are put together. What the labels of other patients say of an ear, by its embedding: confident disagreement out of
sample (Northcutt 2021, arXiv:1911.00068). And, in the training set, how the network came to its answer: a wrong label is learnt
last, if at all (Swayamdipta 2020, arXiv:2009.10795).
"""
import warnings

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.audits.checks import ENOUGH, Audit
from medical_fenlei.metrics.bootstrap import patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.tasks import OUTSIDE, Task

FOLDS = 5
STRENGTH = 0.01
"""Of the regression: strongly regularised, as few ears have many numbers."""
TINY = 1e-6
MORE = 0.1
"""By how much more labels have to be doubtful where dates differ, at the interval's lower end, to deserve a look."""


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


def over_epochs(ears: pd.DataFrame, answers: np.ndarray, task: Task) -> pd.DataFrame:
    """Of the training ears: exam_id, side, `surprise` (its mean over the epochs), `agreement` (share of epochs in which the
    label was more likely than not, of several classes than chance), `epochs` (how many saw it), `first_agreed` (the first of
    those, missing if none). ears: `tables.TRAINING_EARS`; answers (epochs, N, outputs of the task)."""
    target = task.targets(ears.label_code.to_numpy())
    given = agreement_over_epochs(answers, target, task)
    known = target != OUTSIDE
    given, ears = given[:, known], ears.loc[known, ["exam_id", "side"]].reset_index(drop=True)
    agreed, seen = given > 1 / len(task.classes), ~np.isnan(given)
    times = seen.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(seen, -np.log(np.maximum(given, TINY)), 0).sum(0) / times
        share = (agreed & seen).sum(0) / times
    first = pd.Series(agreed.argmax(0) + 1, dtype="Int64").where(np.asarray(agreed.any(axis=0)))
    return ears.assign(surprise=mean, agreement=share, epochs=times, first_agreed=first)


def out_of_sample(embedding: np.ndarray, target: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(N,), -ln of the probability that a regularised logistic regression on the network's embeddings (N, D), fitted to the
    labels of other patients, gives to each ear's label; NaN where no other patient has that label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    doubt = np.full(len(target), np.nan)
    if len(np.unique(patient)) < FOLDS or np.bincount(target).max() < FOLDS:
        return doubt
    with warnings.catch_warnings():                              # of classes smaller than the number of folds
        warnings.simplefilter("ignore", UserWarning)
        folds = list(StratifiedGroupKFold(FOLDS).split(embedding, target, patient))
    for fit, asked in folds:
        if len(np.unique(target[fit])) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=3000, class_weight="balanced"))
        each = model.fit(embedding[fit], target[fit]).predict_proba(embedding[asked])
        column = {c: n for n, c in enumerate(model[-1].classes_)}
        own = np.array([each[n, column[c]] if c in column else np.nan for n, c in enumerate(target[asked])])
        doubt[asked] = -np.log(np.maximum(own, TINY))
    return doubt


def suspects(doubts: dict[str, pd.DataFrame], training: pd.DataFrame | None, manifest: pd.DataFrame) -> pd.DataFrame:
    """`tables.SUSPECTS`. doubts: by set `exam_id, side, label_code, doubt` (`out_of_sample`); training: `over_epochs`, if
    known.

    Sets are ranked each by itself, the training set by the mean of its two ranks (a network that learnt the wrong labels by
    heart gives them away only in its first epochs), and interleaved by the share of the set that stands above.
    """
    parts = []
    for name, own in doubts.items():
        none = pd.Series(pd.NA, own.index, dtype="Int64")
        found = own.assign(surprise=np.nan, agreement=np.nan, epochs=none, first_agreed=none)
        ranks = [own.doubt.rank(ascending=False, na_option="bottom")]
        if name == "train" and training is not None:
            found = own.merge(training, on=["exam_id", "side"], how="left")
            ranks.append(found.surprise.rank(ascending=False, na_option="bottom"))
        order = pd.concat(ranks, axis=1).mean(axis=1).rank(method="first")
        parts.append(found.assign(set=name, place=(order - 0.5) / max(len(own), 1)))
    table = pd.concat(parts, ignore_index=True).sort_values("place", kind="stable", ignore_index=True)
    table = table.merge(manifest[["exam_id", "side", "date_match"]], on=["exam_id", "side"], how="left")
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
    if np.isnan(i.low):
        return Audit(question, figure, *i[:3], "undecided", i.reason)
    more = i.low > MORE
    return Audit(question, figure, *i[:3], "look" if more else "ok",
                 "the matching by exam id may have gone wrong" if more else "not much more than where they agree")

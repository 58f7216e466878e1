"""Which labels should be read again?

Two signs are combined. First, the label contradicts the labels of other patients whose ears have similar embeddings: confident
disagreement out of sample (Northcutt 2021, arXiv:1911.00068). Second, in the training set, the training dynamics: a network
learns a wrong label last, if at all (Swayamdipta 2020, arXiv:2009.10795).
"""
import warnings

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.verdicts import ENOUGH
from medical_fenlei.errors import UserError
from medical_fenlei.log import LOG
from medical_fenlei.metrics.bootstrap import PatientBootstrap
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.dynamics import read_training_dynamics

FOLDS = 5
"""Folds of the cross-validation, by patient."""
INVERSE_REGULARISATION = 0.01
"""`C` of the logistic regression: strong regularisation, for few ears with long embeddings."""
TINY = 1e-6
"""Least probability that enters a logarithm."""
MOST_DOUBTFUL = 0.15
"""Share of the list that counts as doubtful where dates are compared."""


def label_probabilities(logits: np.ndarray, target: np.ndarray, task: Task) -> np.ndarray:
    """Return the probability of each ear's label in each epoch (epochs, N); NaN where the epoch did not see the ear.

    logits (epochs, N, outputs of the task); target (N,), NaN for OUTSIDE.
    """
    with np.errstate(invalid="ignore"):
        probability = task.probabilities(logits)
    own = probability[:, np.arange(len(target)), np.maximum(target, 0)]
    own[:, target == OUTSIDE] = np.nan
    return own


def summarize_dynamics(ears: pd.DataFrame, logits: np.ndarray, task: Task) -> pd.DataFrame:
    """Return exam_id, side, nll, agreement, epochs and first_agreed of the training ears within the task.

    ears: `tables.TRAINING_EARS`; logits (epochs, N, outputs of the task). `nll`: mean negative log-likelihood over the epochs.
    `agreement`: share of the epochs in which the label was more likely than by chance. `epochs`: how many epochs saw the ear.
    `first_agreed`: the first epoch that agreed, counted from 1; missing if none did.
    """
    target = task.targets(ears.label_code.to_numpy())
    probability = label_probabilities(logits, target, task)
    known = target != OUTSIDE
    probability, ears = probability[:, known], ears.loc[known, ["exam_id", "side"]].reset_index(drop=True)
    agreed, seen = probability > 1 / len(task.classes), ~np.isnan(probability)
    epochs = seen.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        nll = np.where(seen, -np.log(np.maximum(probability, TINY)), 0).sum(0) / epochs
        agreement = (agreed & seen).sum(0) / epochs
    first = pd.Series(agreed.argmax(0) + 1, dtype="Int64").where(np.asarray(agreed.any(axis=0)))
    return ears.assign(nll=nll, agreement=agreement, epochs=epochs, first_agreed=first)


def out_of_sample_loss(embedding: np.ndarray, target: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood (N,) of each label, by a regression on the embeddings and labels of other patients.

    embedding (N, D): the network's; target and patient (N,). The logistic regression is strongly regularised. NaN where no
    other patient has that label, or there are too few patients or ears.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    loss = np.full(len(target), np.nan)
    if len(np.unique(patient)) < FOLDS or np.bincount(target).max() < FOLDS:
        return loss
    with warnings.catch_warnings():                              # about classes with fewer ears than folds
        warnings.simplefilter("ignore", UserWarning)
        folds = list(StratifiedGroupKFold(FOLDS).split(embedding, target, patient))
    for fit, held_out in folds:
        if len(np.unique(target[fit])) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, max_iter=3000,
                                                                   class_weight="balanced"))
        probability = model.fit(embedding[fit], target[fit]).predict_proba(embedding[held_out])
        column = {c: n for n, c in enumerate(model[-1].classes_)}
        own = np.array([probability[n, column[c]] if c in column else np.nan for n, c in enumerate(target[held_out])])
        loss[held_out] = -np.log(np.maximum(own, TINY))
    return loss


def rank_suspects(doubts: dict[str, pd.DataFrame], dynamics: pd.DataFrame | None, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return a `tables.SUSPECTS`, the most doubtful labels first.

    doubts: exam_id, side, label_code and doubt (`out_of_sample_loss`) of each set; dynamics: `summarize_dynamics`, if known.
    Each set is ranked by itself, the training set by the mean of its ranks by doubt and by nll (a network that has memorised
    wrong labels shows them in its first epochs only). The sets are then merged by relative rank.
    """
    ranked = []
    for name, ears in doubts.items():
        missing = pd.Series(pd.NA, ears.index, dtype="Int64")
        rows = ears.assign(nll=np.nan, agreement=np.nan, epochs=missing, first_agreed=missing)
        ranks = [ears.doubt.rank(ascending=False, na_option="bottom")]
        if name == "train" and dynamics is not None:
            rows = ears.merge(dynamics, on=["exam_id", "side"], how="left")
            ranks.append(rows.nll.rank(ascending=False, na_option="bottom"))
        order = pd.concat(ranks, axis=1).mean(axis=1).rank(method="first")
        ranked.append(rows.assign(set=name, relative_rank=(order - 0.5) / max(len(ears), 1)))
    table = pd.concat(ranked, ignore_index=True).sort_values("relative_rank", kind="stable", ignore_index=True)
    table = table.merge(manifest[["exam_id", "side", "date_match"]], on=["exam_id", "side"], how="left")
    table = table.assign(rank=np.arange(1, len(table) + 1), date_match=table.date_match.fillna(False).astype(bool))
    return tables.SUSPECTS.frame(table.drop(columns="relative_rank"))


def rank_doubtful_labels(
    network: TrainedNetwork, task: Task, ears: pd.DataFrame, embedding: np.ndarray, manifest: pd.DataFrame
) -> pd.DataFrame:
    """Return a `tables.SUSPECTS` of ears (manifest rows, and their `set`) with their embeddings (N, D)."""
    doubt = out_of_sample_loss(embedding, task.targets(ears.label_code.to_numpy()), ears.patient_key.to_numpy())
    ears = ears.assign(doubt=doubt)[["exam_id", "side", "label_code", "doubt", "set"]]
    doubts = {str(name): own.drop(columns="set").reset_index(drop=True) for name, own in ears.groupby("set", sort=False)}
    return rank_suspects(doubts, _dynamics(network, task), manifest)


def _dynamics(network: TrainedNetwork, task: Task) -> pd.DataFrame | None:
    """`summarize_dynamics` of the network's run; None, with a warning, if the run kept none."""
    try:
        ears, logits = read_training_dynamics(network.run)
    except UserError as error:
        LOG.warning("%s; labels are judged without training dynamics", error)
        return None
    outputs = sum(own.outputs for own in network.tasks)
    if logits.shape[2] != outputs:
        raise UserError(f"{network.run.training_dynamics}: got {logits.shape[2]} outputs, expected the checkpoint's {outputs}; "
                        "they belong to another training")
    return summarize_dynamics(ears, logits[:, :, network.columns(task)], task)


def audit_dates(suspects: pd.DataFrame, patient_of: pd.Series, *, n_resamples: int) -> Audit:
    """Are labels doubtful more often where the sheet's date differs from the folder's?

    suspects: `tables.SUSPECTS`; patient_of: patient keys by exam id.
    """
    question = "Are labels doubtful where dates differ?"
    figure = f"share among the {MOST_DOUBTFUL:.0%} most doubtful labels: where dates differ minus where they agree"
    differ, agree = int((~suspects.date_match).sum()), int(suspects.date_match.sum())
    patient = suspects.exam_id.map(patient_of)
    if min(differ, agree) < ENOUGH:
        return Audit.undecided(question, figure, f"dates differ in {differ} of {differ + agree} ears",
                               patients=patient.nunique(), found=min(differ, agree))
    doubtful = (suspects["rank"] <= MOST_DOUBTFUL * len(suspects)).to_numpy(np.float64)
    dates_differ = (~suspects.date_match).to_numpy(np.float64)

    def difference(weight: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = [weight @ (doubtful * group) / (weight @ group) for group in (dates_differ, 1 - dates_differ)]
        return {"difference": shares[0] - shares[1]}

    bootstrap = PatientBootstrap(patient=patient.to_numpy(), observations=np.column_stack([doubtful, dates_differ]),
                                 n_resamples=n_resamples)
    interval = bootstrap.intervals(difference, scales={"difference": "identity"}).values["difference"]
    return Audit.from_interval(question, figure, interval, thresholds="dates", patients=patient.nunique(), explanation={
        "look": "the matching by exam id may have gone wrong", "ok": "not much more than where they agree"})

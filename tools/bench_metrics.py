"""Time the bootstrap intervals of all measures, against a loop over scikit-learn.

    python tools/bench_metrics.py                  # half a minute, on one core
    python tools/bench_metrics.py --quick          # some seconds

1,538 ears of 800 patients, a fifth of the real collection, with the scores of a good network:
  bootstrap_s         2,000 resamples of the patients, every measure of a report with its interval, a binary task
  bootstrap_s.six     the same for six classes: every measure of each class against the rest
  speedup_vs_sklearn  resamples per second, over those of a loop that calls scikit-learn for the same measures of a binary task
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")                    # one core; read when NumPy is imported

from pathlib import Path

import numpy as np
import pandas as pd
from measuring import figure, in_turn, seconds
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from medical_fenlei import cli
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import class_codes, intervals_of
from medical_fenlei.tasks import Task, find_task
from medical_fenlei.vocabulary import DIAGNOSES

EARS, PATIENTS, RESAMPLES = 1538, 800, 2000
BINARY, SIX = find_task("normal_vs_abnormal"), find_task("six_class")
SHARES = np.array([2626, 1156, 974, 36, 2214, 686]) / 7692
"""Shares of the six codes in the real collection."""


def ears(task: Task) -> pd.DataFrame:
    """Return `tables.PREDICTIONS` as a good network would write them."""
    rng = np.random.default_rng(0)
    code = rng.choice(list(DIAGNOSES), EARS, p=SHARES)
    target = task.targets(code).astype(np.int64)
    logits = rng.normal(size=(EARS, len(task.classes))) + 2 * np.eye(len(task.classes))[target]
    each = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frame = pd.DataFrame({"exam_id": np.arange(EARS).astype(str), "side": "left", "label_code": code, "y_true": target,
                          "patient_key": rng.integers(0, PATIENTS, EARS), "y_pred": each.argmax(1), "y_prob": each.max(1)})
    if task.binary:
        return frame.assign(y_prob=each[:, 1])
    return frame.assign(**{f"prob_{name}": p for name, p in zip(class_codes(task), each.T, strict=True)})


def by_scikit_learn(frame: pd.DataFrame, n_resamples: int) -> None:
    """Compute the same measures of as many resamples, with one call each."""
    rng, y, p = np.random.default_rng(0), frame.y_true.to_numpy(), frame.y_prob.to_numpy()
    rows = [np.flatnonzero(frame.patient_key == who) for who in frame.patient_key.unique()]
    for _ in range(n_resamples):
        own = np.concatenate([rows[n] for n in rng.integers(0, len(rows), len(rows))])
        truth, score, predicted = y[own], p[own], frame.y_pred.to_numpy()[own]
        for area in (metrics.roc_auc_score, metrics.average_precision_score, metrics.brier_score_loss):
            area(truth, score)
        for decision in (metrics.recall_score, metrics.precision_score):
            for of in (1, 0):
                decision(truth, predicted, pos_label=of)
        for both in (metrics.f1_score, metrics.balanced_accuracy_score, metrics.accuracy_score):
            both(truth, predicted)
        false_positive_rate, sensitivity, _ = metrics.roc_curve(truth, score)
        sensitivity[false_positive_rate <= 0.05].max(), 1 - false_positive_rate[sensitivity >= 0.95].min()
        bins = np.minimum((score * 10).astype(int), 9)
        np.abs(np.bincount(bins, score - truth, 10)).sum() / len(own)
        logit = np.log(score / (1 - score))[:, None]
        LogisticRegression(C=np.inf).fit(logit, truth)


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, and fewer resamples for scikit-learn")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    repeats, few = (1, 10) if args.quick else (7, 50)
    frames = {task.name: ears(task) for task in (BINARY, SIX)}

    def ours(task: Task, n_resamples: int = RESAMPLES) -> float:
        return seconds(lambda: intervals_of(frames[task.name], task, n_resamples=n_resamples))

    ours(BINARY, 10)                                             # warm up
    figures = [figure(name, [ours(task) for _ in range(repeats)], "s", "lower")
               for name, task in (("bootstrap_s", BINARY), ("bootstrap_s.six", SIX))]
    pairs = in_turn(lambda: ours(BINARY) / RESAMPLES,
                    lambda: seconds(lambda: by_scikit_learn(frames[BINARY.name], few)) / few, repeats)
    figures.append(figure("speedup_vs_sklearn", [slow / fast for fast, slow in pairs], "x", "higher"))
    if args.json:
        write_json(args.json, figures)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""How many patients does a comparison of two networks take? Networks of equal skill, compared in simulated studies.

    python tools/check_support.py                                # 1,000 studies of each size, some 20 minutes on two cores
    python tools/check_support.py --quick                        # 100 studies of each size

A study has 150 patients with two ears each, of whom a few have a positive ear: these are what most measures rest on. The table
shows in which share of the studies the difference of each measure has a p value below 0.05. Exits with status 1 if a measure is
off by more than half (above 0.075, Bradley 1978, doi:10.1111/j.2044-8317.1978.tb00581.x, and by more than chance) although it
rests on as many patients as `metrics/support.py` asks for.
"""
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy.special import expit

from medical_fenlei import cli, tables
from medical_fenlei.evaluation import compare as comparison
from medical_fenlei.files import write_json
from medical_fenlei.metrics.support import fewest_patients
from medical_fenlei.parallel import map_items
from medical_fenlei.tasks import find_task

PATIENTS, BATCH = 150, 20
"""Patients of a study, and studies per job."""
SKILL = 1.2
"""Distance between the scores of the classes, standard deviations."""
LIBERAL = 0.075
"""Greatest share of false positives of a test at 0.05."""
TASK = find_task("normal_vs_abnormal")


def networks(positive: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the predictions of two networks of equal skill for the same ears; `positive` patients have a positive ear."""
    y = np.zeros((PATIENTS, 2), int)
    y[:positive, 0], y[:positive, 1] = 1, rng.random(positive) < 0.5
    of_patient, of_ear = rng.normal(size=(PATIENTS, 1)), rng.normal(size=(PATIENTS, 2))
    return _predictions(y, of_patient, of_ear, rng), _predictions(y, of_patient, of_ear, rng)


def _predictions(y: np.ndarray, of_patient: np.ndarray, of_ear: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Calibrated probabilities from normal scores, whose noise both networks share but for 30 % of its variance."""
    noise = np.sqrt(0.5) * of_patient + np.sqrt(0.2) * of_ear + np.sqrt(0.3) * rng.normal(size=y.shape)
    share = y.mean()
    p = expit(SKILL * (SKILL * (y - 0.5) + noise) + np.log(share / (1 - share))).ravel()
    person, truth = np.arange(PATIENTS).repeat(2).astype(str), y.ravel()
    code = np.where(truth == 1, 1, 5)
    return tables.PREDICTIONS.frame(pd.DataFrame({
        "exam_id": person, "side": ["left", "right"] * PATIENTS, "patient_key": person, "label_code": code,
        "y_true": truth, "y_prob": p, "y_pred": (p >= np.quantile(p, 1 - share)).astype(int), "top_slices": "",
        "top_slice_weights": ""}))


def p_values(n_resamples: int, job: tuple[int, int]) -> pd.DataFrame:
    """Return the p value of each measure (columns) in each study of a batch, tested however few patients it rests on."""
    positive, number = job
    rng = np.random.default_rng([number, positive])
    with mock.patch.object(comparison, "lack_of_support", lambda *of: ""):
        found = [comparison.compare(*networks(positive, rng), TASK, n_resamples=n_resamples) for _ in range(BATCH)]
    return pd.DataFrame([own.table.set_index("metric").p for own in found]).reset_index(drop=True)


def main() -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--studies", type=cli.int_at_least(BATCH), default=1000, help="studies of each size (default: 1000)")
    parser.add_argument("--positive", type=cli.comma_separated_ints, default=(5, 7, 10, 15, 20, 30, 40), metavar="N,N",
                        help="patients with a positive ear")
    parser.add_argument("--quick", action="store_true", help="100 studies of each size")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers")
    args = parser.parse_args()
    studies, rows, bad = (100 if args.quick else args.studies), [], []
    for positive in args.positive:
        jobs = [(positive, number) for number in range(studies // BATCH)]
        outcomes = list(map_items(partial(p_values, 200), jobs, workers=args.num_workers, label=f"{positive} patients"))
        if failed := [o for o in outcomes if o.value is None]:
            raise RuntimeError(failed[0].detail)
        p = pd.concat([o.value for o in outcomes], ignore_index=True)
        share, tested = (p < 0.05).sum() / p.notna().sum(), p.notna().sum()
        rows += [{"positive": positive, "measure": name, "studies": int(tested[name]), "below_0.05": float(share[name]),
                  "below_0.001": float((p[name] < 0.001).sum() / tested[name])} for name in p]
        slack = 3 * np.sqrt(LIBERAL * (1 - LIBERAL) / tested)
        bad += [f"{name}, {positive} patients: {share[name]:.3f}" for name in p
                if positive >= fewest_patients(name) and share[name] > LIBERAL + slack[name]]
        if args.json:
            write_json(args.json, rows)
    cli.say(pd.DataFrame(rows).pivot(index="measure", columns="positive", values="below_0.05").round(3).to_string())
    cli.say("\n".join(["too many false positives:", *bad] if bad else ["false positives: within bounds"]))
    return cli.CHECK_FAILED if bad else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

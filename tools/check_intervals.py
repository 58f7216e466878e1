"""Do the 95 % intervals hold the truth in 95 of 100 studies? Drawn studies with two ears a patient, where the truth is known.

    python tools/check_intervals.py                              # 2,000 studies a kind, some 20 minutes on two cores
    python tools/check_intervals.py --quick                      # 100 a kind

Of each number: in how many studies its interval held the truth, where the report was silent and where it warned; of the AUROC
also of percentiles, of DeLong's variance by patient (on the logit's scale), and of the same with ears taken for independent.
Leaves with status 1 if silent intervals hold the truth in fewer than 93 or in more than 97 of 100, where they are not rare.
"""
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm

from medical_fenlei import cli
from medical_fenlei.files import write_json
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import ONE_SIDED, Intervals, Measures, canonical_patients, patient_intervals
from medical_fenlei.metrics.delong import auroc_interval
from medical_fenlei.metrics.reliability import ReliabilityMeasures
from medical_fenlei.parallel import map_items

MANY = 500_000
"""Patients from whom the truth is read."""
SHARED = 0.7
"""Correlation of the noise of a patient's ears."""
BATCH = 50
SILENT = 0.25
"""Share of a kind's studies that have to be silent about a number before their intervals are judged."""


class Kind(NamedTuple):
    """Of study."""

    patients: int
    auroc: float
    together: float
    """Share of patients both of whose ears are of one class."""

    prevalence: float = 0.5


KINDS = [Kind(patients, auroc, together) for patients in (20, 40, 100, 300) for auroc in (0.8, 0.95) for together in (0.9, 0.1)]
RARE = [Kind(patients, 0.8, 0.8, 0.15) for patients in (100, 300)]


def study(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, right probabilities and patients of two ears each: normal scores of equal variance, whose AUROC is known."""
    separation = np.sqrt(2) * norm.ppf(kind.auroc)
    y = (rng.random((kind.patients, 1)) < kind.prevalence).astype(int).repeat(2, axis=1)
    y[:, 1] ^= rng.random(kind.patients) >= kind.together
    noise = np.sqrt(SHARED) * rng.normal(size=(kind.patients, 1)) + np.sqrt(1 - SHARED) * rng.normal(size=(kind.patients, 2))
    share = y.mean() if kind.patients == MANY else _share(kind)
    logit = separation * (separation * (y - 0.5) + noise) + np.log(share / (1 - share))
    return y.ravel(), expit(logit).ravel(), np.arange(kind.patients).repeat(2)


def _share(kind: Kind) -> float:
    """Of positive ears."""
    other = kind.prevalence * kind.together + (1 - kind.prevalence) * (1 - kind.together)
    return (kind.prevalence + other) / 2


def measures_of(y: np.ndarray, p: np.ndarray) -> Measures:
    ranking, reliability = BinaryMeasures(y, p), ReliabilityMeasures(y, p)
    return lambda weight: {**ranking(weight), **reliability(weight)}


def truth_of(kind: Kind) -> dict[str, float]:
    y, p, _ = study(kind._replace(patients=MANY), np.random.default_rng(1))
    return {name: float(value[0]) for name, value in measures_of(y, p)(np.ones((1, len(y)))).items()} | {"auroc": kind.auroc}


def percentiles(measures: Measures, patient: np.ndarray, content: np.ndarray, draws: int) -> tuple[float, float]:
    number, of_ear = canonical_patients(patient, content)
    weight = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=draws)[:, of_ear]
    low, high = np.nanquantile(measures(weight)["auroc"], [0.025, 0.975])
    return float(low), float(high)


def judge(truth: dict[str, float], draws: int, job: tuple[Kind, int]) -> list[tuple[str, bool, bool]]:
    """Of a batch of studies: name, whether the report was silent, whether the interval held the truth."""
    kind, number = job
    rng, found = np.random.default_rng([number, *(int(1000 * part) for part in kind)]), []
    for seed in range(BATCH):
        y, p, patient = study(kind, rng)
        if y.min() == y.max():
            continue
        measures, content = measures_of(y, p), np.stack([y, p], 1)
        got: Intervals = patient_intervals(measures, patient, content, seed=seed, draws=draws, classes=y)
        for name, i in got.values.items():
            if not np.isnan(i.low):
                found.append((name, not got.warnings and not i.reason, i.low <= truth[name] <= i.high))
        low, high = percentiles(measures, patient, content, draws)
        found.append(("auroc, percentiles", False, low <= kind.auroc <= high))
        area, both = got.values["auroc"].estimate, min(len(set(patient[y == c])) for c in (0, 1)) > 1
        if 0 < area < 1 and both:
            for name, who in (("auroc, DeLong by patient", patient), ("auroc, DeLong by ear", np.arange(len(y)))):
                i = auroc_interval(y, p, who)
                found.append((name, False, i.low <= kind.auroc <= i.high))
    return found


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--studies", type=cli.at_least(BATCH), default=2000, help="of each kind (default: 2000)")
    parser.add_argument("--patients", type=cli.numbers, default=(20, 40, 100, 300), help="only studies of so many")
    parser.add_argument("--draws", type=cli.at_least(100), default=400, help="resamples an interval (default: 400)")
    parser.add_argument("--quick", action="store_true", help="100 studies of each kind")
    parser.add_argument("--json", type=Path, help="write every figure there too")
    cli.add(parser, "num_workers")
    args = parser.parse_args()
    batches, bad, rows = (100 if args.quick else args.studies) // BATCH, [], []
    for kind in (kind for kind in (*KINDS, *RARE) if kind.patients in args.patients):
        judged = partial(judge, truth_of(kind), args.draws)
        jobs = [(kind, number) for number in range(batches)]
        outcomes = list(map_items(judged, jobs, workers=args.num_workers, label=f"{kind.patients} patients"))
        if failed := [o for o in outcomes if o.value is None]:
            raise RuntimeError(failed[0].detail)
        frame = pd.DataFrame([row for o in outcomes for row in o.value or []], columns=["number", "silent", "held"])
        names = {"studies": ("held", "size"), "held": ("held", "mean"), "silent": ("silent", "mean")}
        table = frame.groupby("number", sort=False).agg(**names)
        table["held_silent"] = frame[frame.silent].groupby("number").held.mean()
        cli.say(f"{kind.patients} patients, AUROC {kind.auroc}, both ears of one class in {kind.together:.0%}, prevalence "
                f"{kind.prevalence:.0%}\n{table.round(3).to_string()}")
        slack = 3 * np.sqrt(0.95 * 0.05 / (table.studies * table.silent).clip(lower=1))
        off = table[((table.held_silent < 0.93 - slack * args.quick) | (table.held_silent > 0.97 + slack * args.quick))
                    & (table.silent >= SILENT)]
        bad += [f"{kind}: {name} {own.held_silent:.3f}" for name, own in off.iterrows() if name not in ONE_SIDED]
        rows += [{**kind._asdict(), "number": name, **own} for name, own in table.to_dict("index").items()]
        if args.json:
            write_json(args.json, rows)
    cli.say("\n".join(["silent, and not within 93 to 97 of 100:", *bad] if bad else ["every silent interval: 93 to 97 of 100"]))
    return cli.CHECK_FAILED if bad else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

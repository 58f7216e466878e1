"""Measure the coverage of the 95 % intervals in simulated studies with two ears per patient and known true values.

    python tools/check_intervals.py                              # 2,000 studies of each kind, some 20 minutes on two cores
    python tools/check_intervals.py --quick                      # 100 studies of each kind

Prints the coverage of each measure over all studies and over those without a warning; for the AUROC also that of percentile
intervals, of DeLong's variance by patient (on the logit scale), and of DeLong's variance with ears taken as independent. Exits
with status 1 if intervals without a warning cover the true value in fewer than 93 % or more than 97 % of the studies, unless
such intervals are rare.
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
from medical_fenlei.metrics.bootstrap import SCALES, Measures, PatientBootstrap, canonical_patients
from medical_fenlei.metrics.delong import delong_interval
from medical_fenlei.metrics.reliability import ReliabilityMeasures
from medical_fenlei.parallel import map_items

MANY = 500_000
"""Patients of the study from which the true values are computed."""
SHARED = 0.7
"""Correlation of the noise of a patient's ears."""
BATCH = 50
"""Studies per job."""
ENOUGH_UNWARNED = 0.25
"""Minimum share of studies without a warning for a measure to be judged."""


class Kind(NamedTuple):
    """A kind of study."""

    patients: int
    auroc: float
    """True AUROC."""

    together: float
    """Share of patients with both ears of one class."""

    prevalence: float = 0.5
    """Share of patients whose first ear is positive."""


KINDS = [Kind(patients, auroc, together) for patients in (20, 40, 100, 300) for auroc in (0.8, 0.95) for together in (0.9, 0.1)]
RARE = [Kind(patients, 0.8, 0.8, 0.15) for patients in (100, 300)]


def study(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate labels, calibrated probabilities and patients of two ears each, from normal scores with known AUROC."""
    separation = np.sqrt(2) * norm.ppf(kind.auroc)
    y = (rng.random((kind.patients, 1)) < kind.prevalence).astype(int).repeat(2, axis=1)
    y[:, 1] ^= rng.random(kind.patients) >= kind.together
    noise = np.sqrt(SHARED) * rng.normal(size=(kind.patients, 1)) + np.sqrt(1 - SHARED) * rng.normal(size=(kind.patients, 2))
    share = y.mean() if kind.patients == MANY else _share(kind)
    logit = separation * (separation * (y - 0.5) + noise) + np.log(share / (1 - share))
    return y.ravel(), expit(logit).ravel(), np.arange(kind.patients).repeat(2)


def _share(kind: Kind) -> float:
    """Expected share of positive ears."""
    other = kind.prevalence * kind.together + (1 - kind.prevalence) * (1 - kind.together)
    return (kind.prevalence + other) / 2


def measures_of(y: np.ndarray, p: np.ndarray) -> Measures:
    """Return all measures of a study."""
    ranking, reliability = BinaryMeasures(y, p), ReliabilityMeasures(y, p)
    return lambda weight: {**ranking(weight), **reliability(weight)}


def truth_of(kind: Kind) -> dict[str, float]:
    """Return the true value of each measure."""
    y, p, _ = study(kind._replace(patients=MANY), np.random.default_rng(1))
    return {name: float(value[0]) for name, value in measures_of(y, p)(np.ones((1, len(y)))).items()} | {"auroc": kind.auroc}


def percentiles(measures: Measures, patient: np.ndarray, observations: np.ndarray, n_resamples: int) -> tuple[float, float]:
    """Return the percentile interval of the AUROC."""
    number, of_ear = canonical_patients(patient, observations)
    weight = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=n_resamples)[:, of_ear]
    low, high = np.nanquantile(measures(weight)["auroc"], [0.025, 0.975])
    return float(low), float(high)


def judge(truth: dict[str, float], n_resamples: int, job: tuple[Kind, int]) -> list[tuple[str, bool, bool]]:
    """Return, for a batch of studies, the measure, whether it came without a warning, and whether it covered the true value."""
    kind, number = job
    rng, found = np.random.default_rng([number, *(int(1000 * part) for part in kind)]), []
    for seed in range(BATCH):
        y, p, patient = study(kind, rng)
        if y.min() == y.max():
            continue
        measures, observations = measures_of(y, p), np.stack([y, p], 1)
        bootstrap = PatientBootstrap(patient=patient, observations=observations, classes=y, seed=seed, n_resamples=n_resamples)
        got = bootstrap.intervals(measures)
        for name, i in got.values.items():
            if not np.isnan(i.low):
                found.append((name, not got.warnings and not i.reason, i.low <= truth[name] <= i.high))
        low, high = percentiles(measures, patient, observations, n_resamples)
        found.append(("auroc, percentiles", False, low <= kind.auroc <= high))
        area, both = got.values["auroc"].estimate, min(len(set(patient[y == c])) for c in (0, 1)) > 1
        if 0 < area < 1 and both:
            for name, who in (("auroc, DeLong by patient", patient), ("auroc, DeLong by ear", np.arange(len(y)))):
                i = delong_interval(y, p, who)
                found.append((name, False, i.low <= kind.auroc <= i.high))
    return found


def main() -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--studies", type=cli.int_at_least(BATCH), default=2000, help="studies of each kind (default: 2000)")
    parser.add_argument("--patients", type=cli.comma_separated_ints, default=(20, 40, 100, 300), metavar="N,N",
                        help="only studies of these sizes")
    parser.add_argument("--resamples", type=cli.int_at_least(100), default=400, metavar="N",
                        help="resamples of each interval (default: 400)")
    parser.add_argument("--quick", action="store_true", help="100 studies of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers")
    args = parser.parse_args()
    batches, bad, rows = (100 if args.quick else args.studies) // BATCH, [], []
    for kind in (kind for kind in (*KINDS, *RARE) if kind.patients in args.patients):
        judged = partial(judge, truth_of(kind), args.resamples)
        jobs = [(kind, number) for number in range(batches)]
        outcomes = list(map_items(judged, jobs, workers=args.num_workers, label=f"{kind.patients} patients"))
        if failed := [o for o in outcomes if o.value is None]:
            raise RuntimeError(failed[0].detail)
        frame = pd.DataFrame([row for o in outcomes for row in o.value or []], columns=["measure", "unwarned", "covered"])
        names = {"studies": ("covered", "size"), "coverage": ("covered", "mean"), "unwarned": ("unwarned", "mean")}
        table = frame.groupby("measure", sort=False).agg(**names)
        table["coverage_unwarned"] = frame[frame.unwarned].groupby("measure").covered.mean()
        cli.say(f"{kind.patients} patients, AUROC {kind.auroc}, both ears of one class in {kind.together:.0%}, prevalence "
                f"{kind.prevalence:.0%}\n{table.round(3).to_string()}")
        slack = args.quick * 3 * np.sqrt(0.95 * 0.05 / (table.studies * table.unwarned).clip(lower=1))
        off = table[((table.coverage_unwarned < 0.93 - slack) | (table.coverage_unwarned > 0.97 + slack))
                    & (table.unwarned >= ENOUGH_UNWARNED)]
        bad += [f"{kind}: {name} {own.coverage_unwarned:.3f}" for name, own in off.iterrows()
                if SCALES.get(name) != "percentile"]
        rows += [{**kind._asdict(), "measure": name, **own} for name, own in table.to_dict("index").items()]
        if args.json:
            write_json(args.json, rows)
    cli.say("\n".join(["coverage without a warning outside 93 to 97 %:", *bad] if bad else
                      ["coverage of all intervals without a warning: 93 to 97 %"]))
    return cli.CHECK_FAILED if bad else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

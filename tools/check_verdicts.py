"""Measure how often the verdicts of the audits are false, in simulated studies of 30, 100 and 300 patients.

    python tools/check_verdicts.py                               # 200 studies of each kind, some 12 minutes of one core
    python tools/check_verdicts.py --quick                       # 20 studies of each kind, some 80 seconds

Each audit is simulated without its fault and with it. Prints, for each number of patients, the share of false alarms ("look" or
"wrong" without a fault), of misses ("ok" with one) and of studies that remain undecided, and the median number of patients that
undecided audits ask for. Exits with status 1 if an audit gives more false alarms or misses than MOST_FALSE beyond chance, or a
"wrong" without a fault in more than MOST_WRONG.
"""
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from medical_fenlei import cli, tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.auroc import auroc_interval
from medical_fenlei.audits.chance import audit_chance
from medical_fenlei.audits.doubtful_labels import audit_dates
from medical_fenlei.audits.exchanged_sides import audit_sides
from medical_fenlei.audits.robustness import PairedScores
from medical_fenlei.audits.shortcuts import audit_metadata, audit_other_ear
from medical_fenlei.files import write_json
from medical_fenlei.parallel import map_items
from medical_fenlei.tasks import find_task

TASK = find_task("normal_vs_abnormal")
MOST_FALSE, MOST_WRONG = 0.05, 0.025
"""Highest share of false alarms and of misses; highest share of "wrong" without a fault."""
SKILL = 2.5
"""Distance of the classes in standard deviations of the logit: an AUROC of 0.96."""
ONE_SIDED = 0.35
"""Share of exams whose ears differ."""
RESAMPLES = 300


def drawn(patients: int, rng: np.random.Generator, *, skill: float = SKILL, shared: float = 0.0, name: str = ""
          ) -> pd.DataFrame:
    """Return a `binary_view` of patients with one exam of two ears each. shared: influence of the other ear's label."""
    y = rng.integers(0, 2, patients).repeat(2).reshape(-1, 2)
    y[rng.random(patients) < ONE_SIDED, 1] ^= 1
    noise = np.sqrt(0.3) * rng.normal(size=(patients, 1)) + np.sqrt(0.7) * rng.normal(size=y.shape)
    logit = skill * (y - 0.5) + shared * (y[:, ::-1] - 0.5) + noise
    exam = name + pd.Series(np.arange(patients).astype(str)).repeat(2).reset_index(drop=True)
    return pd.DataFrame({"exam_id": exam, "side": ["left", "right"] * patients, "patient_key": "p" + exam,
                         "label_code": np.where(y.ravel() == 1, 1, 5), "y": y.ravel(), "score": expit(logit.ravel())})


def sides(share: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit exchanged sides. share: of the exams, whose labels are exchanged."""
    ears = drawn(patients, rng)
    exchanged = (np.arange(patients) < share * patients).repeat(2)
    for name in ("y", "label_code"):
        ears[name] = np.where(exchanged, ears[name].to_numpy().reshape(-1, 2)[:, ::-1].ravel(), ears[name])
    return audit_sides(ears, n_resamples=RESAMPLES)[0]


def metadata(which: int, told: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit the scanner (which 0) or age and sex (1), fitted on as many patients as are audited.

    told: share of the ears whose kernel follows the label; for age and sex, standard deviations between the classes' ages.
    """
    train, audited = drawn(patients, rng, name="t"), drawn(patients, rng, name="a")
    both = pd.concat([train, audited], ignore_index=True)
    exam, label = pd.factorize(both.exam_id)[0], both.groupby("exam_id").y
    one, two, three, four, five = rng.random((5, exam.max() + 1))[:, exam]       # each is the same for both ears of an exam
    kernel = np.where(one < (told if which == 0 else 0), label.transform("first") == 1, two < 0.5)
    age = 45 + 15 * rng.normal(size=exam.max() + 1)[exam] + 15 * (told if which == 1 else 0) * label.transform("mean")
    frame = both.drop(columns=["y", "score"]).assign(
        date="2020-01-01", label_date="2020-01-01", date_match=True, series_relpath=both.exam_id + "/s", n_instances=150,
        patient_key_source="patient_id", manufacturer=np.where(three < 0.5, "SIEMENS", "GE"), model="m",
        kernel=np.where(kernel, "H70", "B60"), transfer_syntax="", rows=512, columns=512, pixel_spacing_mm=0.3 + 0.1 * four,
        slice_thickness_mm=0.6, slice_increment_mm=0.6, age_years=age.round().clip(1, 95).astype(int),
        sex=np.where(five < 0.5, "F", "M"), kvp=120.0, study_key="")
    manifest = tables.MANIFEST.frame(frame.join(tables.task_columns(frame.label_code)))
    training = manifest[manifest.exam_id.isin(train.exam_id)]
    return audit_metadata(audited, manifest, TASK, training, n_resamples=RESAMPLES)[which]


def other_ear(shared: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit the influence of the other ear."""
    return audit_other_ear(drawn(patients, rng, shared=shared), n_resamples=RESAMPLES)


def chance(skill: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit a network with this skill against chance."""
    return audit_chance(drawn(patients, rng, skill=skill), permutations=200)


def robustness(skill: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit a perturbation under which the network has this skill; without a fault, scores change at random."""
    ears = drawn(patients, rng)
    logit = np.log(ears.score / (1 - ears.score)) + (skill - SKILL) * (ears.y - 0.5)
    perturbed = expit(logit + 0.2 * rng.normal(size=len(ears)))
    return PairedScores.from_ears(ears, n_resamples=RESAMPLES).compare("simulated", perturbed.to_numpy())[0]


def dates(more: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit doubtful labels where dates differ (in two thirds of the exams). more: how much more doubtful these are."""
    ears = drawn(patients, rng)
    differ = (rng.random(patients) < 2 / 3).repeat(2)
    frame = ears[["exam_id", "side", "label_code"]].assign(
        doubt=rng.random(len(ears)) + more * (differ & (rng.random(len(ears)) < 0.5)), set="val", nll=np.nan, agreement=np.nan,
        epochs=pd.NA, first_agreed=pd.NA, date_match=~differ)
    frame = frame.sort_values("doubt", ascending=False).assign(rank=np.arange(1, len(frame) + 1))
    patient = ears.drop_duplicates("exam_id").set_index("exam_id").patient_key
    return audit_dates(tables.SUSPECTS.frame(frame), patient, n_resamples=RESAMPLES)


def wrong_labels(skill: float, patients: int, rng: np.random.Generator) -> Audit:
    """Audit a network that was trained on shuffled labels and has this skill."""
    ears = drawn(patients, rng, skill=skill)
    return Audit.from_interval("shuffled labels", "AUROC", auroc_interval(ears, ears.score.to_numpy(), n_resamples=RESAMPLES),
                               thresholds="wrong labels", patients=patients, explanation="")


Study = Callable[[int, np.random.Generator], Audit]
"""Draws a study of so many patients and audits it."""
KINDS: dict[tuple[str, str], Study] = {
    ("exchanged sides", ""): partial(sides, 0.0),
    ("exchanged sides", "half of the exams"): partial(sides, 0.5),
    ("exchanged sides", "all exams"): partial(sides, 1.0),
    ("scanner", ""): partial(metadata, 0, 0.0),
    ("scanner", "kernel tells half of the exams"): partial(metadata, 0, 0.5),
    ("scanner", "kernel tells nine in ten exams"): partial(metadata, 0, 0.9),
    ("age and sex", ""): partial(metadata, 1, 0.0),
    ("age and sex", "ages a standard deviation apart"): partial(metadata, 1, 1.0),
    ("other ear", ""): partial(other_ear, 0.0),
    ("other ear", "half as much as the ear"): partial(other_ear, SKILL / 2),
    ("chance", ""): partial(chance, SKILL),
    ("chance", "no skill"): partial(chance, 0.0),
    ("robustness", ""): partial(robustness, SKILL),
    ("robustness", "AUROC falls from 0.96 to 0.86"): partial(robustness, 1.5),
    ("dates", ""): partial(dates, 0.0),
    ("dates", "half of the labels doubtful"): partial(dates, 1.0),
    ("wrong labels", ""): partial(wrong_labels, 0.0),
    ("wrong labels", "AUROC 0.70"): partial(wrong_labels, 0.75),
}
"""Studies by audit and fault; "" without a fault."""


def judge(studies: int, job: tuple[tuple[str, str], int]) -> list[tuple[str, float]]:
    """Return the verdict of each study of one kind and size, and how many patients it asks for (NaN: none)."""
    kind, patients = job
    rngs = np.random.default_rng([list(KINDS).index(kind), patients]).spawn(studies)
    found = [KINDS[kind](patients, rng) for rng in rngs]
    return [(audit.verdict, audit.patients_to_decide or np.nan) for audit in found]


def row_of(kind: tuple[str, str], patients: int, judged: list[tuple[str, float]]) -> dict[str, Any]:
    """Return a row of the table: the shares of the verdicts in these studies."""
    verdicts, needed = zip(*judged, strict=True)
    share = {verdict: float(np.mean([own == verdict for own in verdicts])) for verdict in ("ok", "look", "wrong", "undecided")}
    asked = float(np.nanmedian(needed)) if np.isfinite(needed).any() else np.nan
    false = share["ok"] if kind[1] else share["look"] + share["wrong"]
    return {"audit": kind[0], "fault": kind[1] or "none", "patients": patients, **share, "false": false, "asks for": asked}


def main() -> int:
    """Run the simulations; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--studies", type=cli.int_at_least(10), default=200, help="studies of each kind (default: 200)")
    parser.add_argument("--patients", type=cli.comma_separated_ints, default=(30, 100, 300), metavar="N,N",
                        help="patients of a study (default: 30,100,300)")
    parser.add_argument("--quick", action="store_true", help="20 studies of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers")
    args = parser.parse_args()
    studies = 20 if args.quick else args.studies
    jobs = [(kind, patients) for kind in KINDS for patients in args.patients]
    outcomes = list(map_items(partial(judge, studies), jobs, workers=args.num_workers, label="simulated audits"))
    if failed := [outcome for outcome in outcomes if outcome.value is None]:
        raise RuntimeError(failed[0].detail)
    table = pd.DataFrame([row_of(kind, patients, outcome.value or []) for (kind, patients), outcome in zip(jobs, outcomes,
                                                                                                          strict=True)])
    cli.say(table.round(3).to_string(index=False))
    slack = 2 * np.sqrt(MOST_FALSE * (1 - MOST_FALSE) / studies)
    bad = table[(table["false"] > MOST_FALSE + slack) | ((table.fault == "none") & (table.wrong > MOST_WRONG + slack))]
    for own in bad.itertuples():
        cli.say(f"BAD {own.audit}, fault: {own.fault}, {own.patients} patients: false {own.false:.1%}, wrong {own.wrong:.1%}")
    if args.json:
        write_json(args.json, table.to_dict("records"))
    return cli.CHECK_FAILED if len(bad) else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

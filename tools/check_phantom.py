"""Check that the synthetic hospital cannot be solved by a shortcut, and that a network learns only from correct labels.

    python tools/check_phantom.py                                       # baselines on 400 exams, drawn without files
    python tools/check_phantom.py --difficulty hard                     # of the hard hospital
    python tools/check_phantom.py --hospital data/demo --run outputs/demo_seed0    # also the network of the demo, against the
                                                                        # baselines and with wrong training labels

Prints each figure with its bound; exits with status 1 if one is out of bounds. The second form trains twice (some 10 minutes on
two cores). Synthetic, not clinical evidence.
"""
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import cli, settings, tables
from medical_fenlei.audits.retraining import WrongLabels, with_wrong_labels
from medical_fenlei.config import RunConfig
from medical_fenlei.files import write_json
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Interval, PatientBootstrap
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.hospital import draw_ears, sample_acquisition
from medical_fenlei.phantom.population import Exam, sample_population
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.runs import Run
from medical_fenlei.tasks import OUTSIDE, find_task
from medical_fenlei.vocabulary import SIDES

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TASK = find_task("normal_vs_abnormal")
SEED = 7
BINS = np.linspace(-1024, 3072, 17)


def describe(spec: HospitalSpec, exam: Exam) -> list[dict[str, object]]:
    """Return the features of the baselines for each ear of an exam."""
    scan = sample_acquisition(exam, spec)[0].scan
    facts = {"model": scan.model, "kernel": "/".join(scan.kernel), "pixel_mm": scan.pixel_mm,
             "increment_mm": scan.increment_mm, "thickness_mm": scan.thickness_mm, "day": exam.date.toordinal()}
    ears = draw_ears(exam, spec, num_slices=16, image_size=96, crop_mm=64)
    return [{"patient": exam.patient.name, "y": int(TASK.table[exam.codes[side]]), **facts,
             "mean": ears[side].mean(), "sd": ears[side].std(),
             **{f"bin{i}": share for i, share in enumerate(np.histogram(ears[side], BINS, density=True)[0])}} for side in SIDES]


def auroc_across_patients(features: pd.DataFrame, ears: pd.DataFrame) -> Interval:
    """Return the AUROC of a logistic regression, cross-validated by patient."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    score = cross_val_predict(model, features.astype(float), ears.y, groups=ears.patient, cv=GroupKFold(5),
                              method="predict_proba")
    return interval(ears.y.to_numpy(), score[:, 1], ears.patient.to_numpy())


def interval(y: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Interval:
    """Return the AUROC with its interval."""
    bootstrap = PatientBootstrap(patient=patient, observations=np.column_stack([y, score]), seed=SEED)
    return bootstrap.intervals(BinaryMeasures(y, score)).values["auroc"]


def baselines(spec: HospitalSpec, workers: int) -> dict[str, Interval]:
    """Return the AUROC of each baseline."""
    rows = []
    exams = sample_population(spec.num_exams, spec.seed, spec.disease, spec.difficulty)
    for outcome in map_items(partial(describe, spec), exams, workers=workers, label="exams"):
        if outcome.value is None:
            raise RuntimeError(f"exam {outcome.item.exam_id}: {outcome.detail}")
        rows += outcome.value
    ears = pd.DataFrame(rows)
    scan = ["model", "kernel", "pixel_mm", "increment_mm", "thickness_mm", "day"]
    return {"mean and sd of HU": auroc_across_patients(ears[["mean", "sd"]], ears),
            "histogram of HU, 16 bins": auroc_across_patients(ears.filter(regex="^bin"), ears),
            "scanner, kernel, spacing, date": auroc_across_patients(pd.get_dummies(ears[scan]), ears)}


def trained_wrongly(hospital: Path, config: RunConfig, how: WrongLabels) -> Interval:
    """Return the AUROC against the true validation labels of a network that was fitted to wrong labels."""
    name = f"phantom_{how}_seed{config.training.seed}"
    manifest = tables.MANIFEST.read(hospital / config.data.manifest_csv)
    split = tables.read_split(hospital / config.data.splits_root, config.data.pct)
    fitted = {exam for part in ("train", "tune") if part in split.sets for exam in split.sets[part].exam_id}
    wrong = Path("artifacts") / f"{name}.csv"
    tables.MANIFEST.write(hospital / wrong, with_wrong_labels(manifest, fitted, how))
    run = Run(hospital / "outputs" / name)
    if not run.checkpoint("best").exists():
        words = settings.to_flags(config)
        call("train_ear2d", hospital, *words, "--manifest-csv", wrong, "--output-dir", f"outputs/{name}")
    checkpoint = f"outputs/{name}/checkpoints/best.pt"
    call("eval_ear2d", hospital, "--pictures", 0, "--checkpoint", checkpoint, "--manifest-csv", config.data.manifest_csv)
    return score_of(run)


def score_of(run: Run, exchanged: bool = False) -> Interval:
    """Return the AUROC of a run's validation predictions, with `exchanged` against the labels of the other ears."""
    found = tables.PREDICTIONS.read(run.reports / "predictions_val.csv")
    y = found.y_true.to_numpy()
    if exchanged:
        known = found.set_index(["exam_id", "side"]).y_true
        opposite = found.side.map({"left": "right", "right": "left"})
        y = np.array([known.get(key, OUTSIDE) for key in zip(found.exam_id, opposite, strict=True)])
    valid = y != OUTSIDE
    return interval(y[valid], found.y_prob.to_numpy()[valid], found.patient_key.to_numpy()[valid])


def call(script: str, hospital: Path, *words: object) -> None:
    """Run a script in the folder of the hospital."""
    subprocess.run([sys.executable, SCRIPTS / f"{script}.py", *map(str, words)], cwd=hospital, check=True, env={**os.environ})


def main() -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--num-exams", type=int, default=400, help="exams of the baselines (default: 400)")
    parser.add_argument("--difficulty", choices=settings.choices(HospitalSpec, "difficulty"), default="usual",
                        help="of the exams of the baselines (default: usual)")
    parser.add_argument("--hospital", type=Path, help="a folder in which tools/demo.sh has run")
    parser.add_argument("--run", type=Path, help="the demo's run, below --hospital")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers", seed=11)
    args = parser.parse_args()

    lines: list[tuple[str, Interval, str, bool]] = []

    def check(what: str, found: Interval, bound: str, good: bool) -> None:
        lines.append((what, found, bound, good))
        mark, shown = "ok " if good else "BAD", f"AUROC {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"
        cli.say(f"{mark} {what:44s} {shown}, expected: {bound}")

    base = baselines(HospitalSpec(num_exams=args.num_exams, seed=args.seed, difficulty=args.difficulty), args.num_workers)
    by_mean, by_histogram, by_scan = base.values()
    check("mean and sd of HU", by_mean, "below 0.75", by_mean.estimate < 0.75)
    check("scanner, kernel, spacing, date", by_scan, "below 0.60", by_scan.estimate < 0.60)
    if args.hospital and args.run:
        run = Run(args.hospital / args.run)
        config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        network = score_of(run)
        check("slice-attention network", network, "at least 0.90", network.estimate >= 0.90)
        limit = network.estimate - 0.05
        check("histogram of HU, 16 bins", by_histogram, f"at most {limit:.3f}", by_histogram.estimate <= limit)
        crossed = score_of(run, exchanged=True)
        check("network against the other ear's label", crossed, "below its interval", crossed.high < network.low)
        shuffled = trained_wrongly(args.hospital, config, "shuffled")
        check("network fitted to shuffled labels", shuffled, "interval holds 0.5", shuffled.low <= 0.5 <= shuffled.high)
        exchanged = trained_wrongly(args.hospital, config, "exchanged")
        check("network fitted to labels of the other ear", exchanged, "below its interval", exchanged.high < network.low)
    else:
        cli.say(f"    histogram of HU, 16 bins: AUROC {by_histogram.estimate:.3f}; --run compares it with the network")
    if args.json:
        names = ("name", "found", "expected", "ok")
        write_json(args.json, [dict(zip(names, (what, found._asdict(), *rest), strict=True)) for what, found, *rest in lines])
    return cli.OK if all(good for *_, good in lines) else cli.CHECK_FAILED


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

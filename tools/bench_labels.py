"""Measure what the default network learns from few and from many labels, and what that costs.

    python tools/bench_labels.py                                 # 20 and 100 % of two hospitals, three seeds: hours on 2 cores
    python tools/bench_labels.py --hospitals usual --pcts 20
    python tools/bench_labels.py --hospitals hard --tasks six_class --flags "--backbone anatomy"     # another method
    python tools/bench_labels.py --hospital-seed 5               # other hospitals, on which settings may be chosen
    python tools/bench_labels.py --quick                         # the same on a tiny hospital with a tiny network

Draws each hospital below --out-dir (default: data/bench_labels), then calls the commands of the main route in it, as
tools/demo.sh does: train, calibrate and evaluate with each seed. What is there already is used again, so that after a stop the
same command continues. For each hospital, task and amount of labels it prints the AUROC on the validation ears (macro average
for six_class), mean over the seeds with an interval that resamples patients, against the labels of the sheet and against the
truth, which differ in the hard hospital; and mean steps, mean seconds and peak memory of training. Synthetic, not clinical
evidence.
"""
import math
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from check_phantom import call

from medical_fenlei import cli, settings, tables
from medical_fenlei.experiments.seeds import mean_over_seeds
from medical_fenlei.files import write_json
from medical_fenlei.metrics.bootstrap import Interval
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.runs import Run
from medical_fenlei.tasks import OUTSIDE, Task, find_task

SPLITS = "artifacts/splits_dual_patient"
UNITS = {"steps": "steps", "seconds": "s", "memory_gb": "GB"}


class Size(NamedTuple):
    """How large everything is."""

    hospital: str
    """Flags of make_demo_dataset."""

    cache: str
    """Flags of build_cache_ears."""

    network: str
    """Flags of the training that differ from the defaults."""


WHOLE = Size("--num-exams 160", "--num-slices 16 --image-size 96 --crop-mm 64 --sampling roi",
             "--backbone resnet10t --batch-size 8")
QUICK = Size("--num-exams 24 --slices 32", "--num-slices 4 --image-size 32 --crop-mm 64 --sampling roi",
             "--backbone test_resnet --batch-size 8 --min-steps 30")


def prepare(hospital: Path, difficulty: str, seed: int, size: Size, workers: int) -> None:
    """Draw a hospital and cut its ears, unless that is done."""
    workers_flag = ("--num-workers", workers)
    if not (hospital / "truth" / "truth.csv").exists():
        hospital.mkdir(parents=True, exist_ok=True)
        call("make_demo_dataset", hospital, "--out-dir", ".", "--difficulty", difficulty, "--seed", seed,
             *workers_flag, *size.hospital.split())
    if not (hospital / SPLITS / "100pct" / "stats.json").exists():
        call("build_index", hospital, *workers_flag)
        call("build_manifest_ears", hospital)
        call("make_splits_dual", hospital, "--out-dir", SPLITS, "--manifest-csv", "artifacts/manifest_ears.csv",
             "--patient-split", "--val-ratio", 0.4)
    call("build_cache_ears", hospital, "--splits-root", SPLITS, "--pct", 100, *workers_flag, *size.cache.split())


def train(hospital: Path, task: Task, pct: int, seeds: str, words: str) -> list[Run]:
    """Train, calibrate and evaluate with each seed, unless that is done; return the runs."""
    study = Path("outputs") / re.sub(r"[^\w.]+", "_", f"labels {words}").strip("_")
    call("run_seeds_ear2d", hospital, "--splits-root", SPLITS, "--pct", pct, "--label-task", task.name, "--seeds", seeds,
         "--output-dir", study, *shlex.split(words))
    (folder,) = (hospital / study).glob(f"{task.name}_{pct}pct_*")
    return [Run(folder / f"seed_{int(seed)}") for seed in seeds.split(",")]


def auroc(runs: list[Run], task: Task, truth: pd.Series | None) -> tuple[Interval, float]:
    """Return the mean AUROC of the runs with its interval, and its standard deviation over them.

    truth: the true code of each ear by (exam_id, side); None measures against the labels of the sheet.
    """
    each = [tables.read_predictions(run.reports / "predictions_val.csv", task) for run in runs]
    if truth is not None:
        each = [frame.assign(y_true=task.targets(truth[[*zip(frame.exam_id, frame.side, strict=True)]].to_numpy()))
                for frame in each]
        each = [frame[frame.y_true != OUTSIDE] for frame in each]
    mean, sd = mean_over_seeds(each, task)
    return mean.values["auroc"], sd["auroc"]


def costs(run: Run) -> dict[str, float]:
    """Return the steps, seconds and peak memory (GB) of a training."""
    epochs = list(run.read_metrics())
    return {"steps": len(epochs) * run.read_schedule()["steps"], "seconds": sum(epoch["seconds"] for epoch in epochs),
            "memory_gb": max(epoch["memory_gb"] for epoch in epochs)}


def measure(runs: list[Run], task: Task, hospital: Path) -> dict[str, Any]:
    """Return the row of the table for the runs of one hospital, task and amount of labels."""
    truth = pd.read_csv(hospital / "truth" / "truth.csv", dtype={"exam_id": str}).set_index(["exam_id", "side"]).code
    spent = pd.DataFrame([costs(run) for run in runs])
    return {"sheet": auroc(runs, task, None), "truth": auroc(runs, task, truth),
            **{name: (float(spent[name].max() if name == "memory_gb" else spent[name].mean()), float(spent[name].std()))
               for name in spent}}


def shown(score: tuple[Interval, float]) -> str:
    """A mean AUROC with its interval and, of several seeds, the standard deviation over them."""
    (estimate, low, high, *_), sd = score
    return f"{estimate:.3f} ({low:.3f} to {high:.3f})" + ("" if math.isnan(sd) else f", sd {sd:.3f}")


def figures(where: str, row: dict[str, Any], n: int) -> Iterable[dict[str, Any]]:
    """Yield the rows of the JSON file, those of an interval among them.

    The spread is the standard deviation over the seeds, None for a single one.
    """
    for name, (value, sd) in row.items():
        if isinstance(value, Interval):
            for end, one in (("", value.estimate), ("_low", value.low), ("_high", value.high)):
                yield figure(f"auroc_{name}{end}.{where}", one, None if end else sd, "AUROC", "higher", n)
        else:
            yield figure(f"{name}.{where}", value, sd, UNITS[name], "lower", n)


def figure(name: str, value: float, sd: float | None, unit: str, better: str, n: int) -> dict[str, Any]:
    """Return a row of the JSON file."""
    return {"name": name, "value": value, "unit": unit, "better": better, "n": n, "spread": sd if n > 1 else None}


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    difficulties = settings.choices(HospitalSpec, "difficulty")
    parser.add_argument("--hospitals", type=cli.comma_separated(difficulties), default=",".join(difficulties),
                        help="hospitals (default: %(default)s)")
    parser.add_argument("--pcts", type=cli.comma_separated_ints, default="20,100",
                        help="percent of the labels (default: %(default)s)")
    parser.add_argument("--tasks", default="normal_vs_abnormal", help="tasks with commas (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the training (default: %(default)s)")
    parser.add_argument("--flags", default="", metavar="TEXT",
                        help="further flags of train_ear2d, in quotes; their runs have a folder of their own")
    parser.add_argument("--hospital-seed", type=cli.int_at_least(0), default=0, metavar="N",
                        help="seed of the hospitals (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny hospital, a tiny network, one seed")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers", out_dir=Path("data/bench_labels"))
    args = parser.parse_args()
    size, seeds, pcts = (QUICK, "0", (100,)) if args.quick else (WHOLE, args.seeds, args.pcts)
    tasks = [find_task(name) for name in args.tasks.split(",")]
    words = f"{size.network} {args.flags}".strip()

    rows, found = [], []
    for difficulty in args.hospitals:
        hospital = (args.out_dir / ("quick" if args.quick else "whole") / f"{difficulty}_{args.hospital_seed}").absolute()
        prepare(hospital, difficulty, args.hospital_seed, size, args.num_workers)
        for task in tasks:
            for pct in pcts:
                row = measure(train(hospital, task, pct, seeds, words), task, hospital)
                rows.append({"hospital": difficulty, "task": task.name, "pct": pct, "AUROC, sheet": shown(row["sheet"]),
                             "AUROC, truth": shown(row["truth"]), "steps": f"{row['steps'][0]:.0f}",
                             "seconds": f"{row['seconds'][0]:.0f}", "GB": f"{row['memory_gb'][0]:.2f}"})
                found += figures(f"{difficulty}.{task.name}.{pct}pct", row, len(seeds.split(",")))
    cli.show(pd.DataFrame(rows))
    cli.say("synthetic, not clinical evidence")
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

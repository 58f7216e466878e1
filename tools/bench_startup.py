"""Time from a command to its first line on standard output, on a small study: what a person waits before anything is said.

    python tools/bench_startup.py                    # some 3 minutes
    python tools/bench_startup.py --quick            # one run of each
    python tools/bench_startup.py --against 68055be  # and how much sooner than that commit, some 10 minutes
    python tools/bench_startup.py --whole            # also the time to the end of each command

  train, eval, predict               seconds to the first line of train_ear2d, eval_ear2d, predict_ear2d
  train.end, eval.end, predict.end   seconds to the end of the command, on 12 small exams (--whole)
  speedup_vs_before.<any of these>   seconds of the other commit over ours, in pairs measured in turn
Each build makes index, manifest, splits, cache and a network of its own from the same synthetic hospital.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import functools
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from builds import ROOT, checkout, environment
from measuring import figure, in_turn

from medical_fenlei import cli
from medical_fenlei.errors import UserError
from medical_fenlei.files import write_json

SPLITS, BEST = "artifacts/splits_dual_patient", "outputs/first/checkpoints/best.pt"
HOSPITAL = "make_demo_dataset --out-dir . --num-exams 12 --slices 24 --num-workers 1 --seed 2"
STUDY = (
    "build_index --out-csv artifacts/dataset_index.csv --num-workers 1",
    "build_manifest_ears --index-csv artifacts/dataset_index.csv --out-csv artifacts/manifest_ears.csv --num-workers 1",
    f"make_splits_dual --index-csv artifacts/dataset_index.csv --out-dir {SPLITS} "
    "--manifest-csv artifacts/manifest_ears.csv --patient-split",
    f"build_cache_ears --splits-root {SPLITS} --pct 100 --num-slices 4 --image-size 32 --crop-size 128 --num-workers 1",
)
"""Command lines that make a study of the hospital."""
TRAIN = f"train_ear2d --splits-root {SPLITS} --pct 100 --backbone test_resnet --epochs 1 --batch-size 4 --device cpu"
COMMANDS = {
    "train": f"{TRAIN} --output-dir outputs/run_{{}}",
    "eval": f"eval_ear2d --checkpoint {BEST} --device cpu --pictures 0",
    "predict": f"predict_ear2d --dicom data/medical_data_2 --limit 2 --checkpoint {BEST} --out answers_{{}} --device cpu "
               "--num-workers 1",
}
"""Command lines that are timed; {} is the number of the run, since each writes into a folder of its own."""


def make_study(tree: Path, here: Path, hospital: Path, *more: str) -> None:
    """Make a study of the hospital in a new folder, then run further command lines in it. Raises UserError if one fails."""
    here.mkdir()
    for name in ("data", "metadata"):
        (here / name).symlink_to(hospital / name)
    for line in (*STUDY, *more):
        run(tree, here, line)


class Wait(NamedTuple):
    """Seconds from the start of a command to its first line on standard output, and to its end (NaN if it was ended)."""

    first_line: float
    end: float


class Build:
    """A checkout with a study of its own."""

    def __init__(self, tree: Path, here: Path, hospital: Path) -> None:
        """Make the study and a network in a new folder. Raises UserError if a command fails."""
        self.tree, self.here, self._runs = tree, here, 0
        make_study(tree, here, hospital, f"{TRAIN} --output-dir outputs/first")

    def time(self, name: str, *, whole: bool) -> Wait:
        """Time one of COMMANDS. whole: let it end."""
        self._runs += 1
        return run(self.tree, self.here, COMMANDS[name].format(self._runs), whole=whole)


def run(tree: Path, here: Path, line: str, *, whole: bool = True) -> Wait:
    """Run a command line of a checkout in a folder, to its end or (whole=False) to its first line. Raises UserError."""
    script, *words = line.split()
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(
            [sys.executable, tree / "scripts" / f"{script}.py", *words], cwd=here, stdout=subprocess.PIPE, stderr=said,
            env={**environment(tree), "XDG_CONFIG_HOME": str(here / "config"), "OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout is not None
        spoke = bool(process.stdout.readline())
        first_line = time.perf_counter() - began
        if spoke and not whole:
            process.kill()
            return Wait(first_line, math.nan)
        process.stdout.read()
        if process.wait() not in (cli.OK, cli.PARTLY):
            said.seek(0)
            raise UserError(f"{script} in {tree}: {(said.read().strip().splitlines() or ['failed'])[-1]}")
    return Wait(first_line, time.perf_counter() - began)


def figures_of(name: str, waits: list[Wait], before: list[Wait]) -> list[dict[str, Any]]:
    """Print and return the figures of a command. before: those of another build, in pairs with ours, or none."""
    found = []
    for field, label in (("first_line", name), ("end", f"{name}.end")):
        own, others = ([getattr(wait, field) for wait in each] for each in (waits, before))
        if math.isnan(own[0]):
            continue
        found.append(figure(label, own, "s", "lower"))
        if before:
            ratios = [theirs / mine for theirs, mine in zip(others, own, strict=True)]
            found.append(figure(f"speedup_vs_before.{label}", ratios, "x", "higher"))
    return found


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each command")
    parser.add_argument("--whole", action="store_true", help="also time each command to its end")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    runs, found = 1 if args.quick else 5, []
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hospital = here / "hospital"
        hospital.mkdir()
        run(ROOT, hospital, HOSPITAL)
        ours = Build(ROOT, here / "ours", hospital)
        other = Build(stack.enter_context(checkout(args.against)), here / "before", hospital) if args.against else None
        for name in COMMANDS:
            if other is None:
                ours.time(name, whole=args.whole)                # warm up
                found += figures_of(name, [ours.time(name, whole=args.whole) for _ in range(runs)], [])
            else:
                mine, theirs = (functools.partial(build.time, name, whole=args.whole) for build in (ours, other))
                pairs = in_turn(mine, theirs, runs)
                found += figures_of(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Speed of training on all cores beside other busy processes, and alone.

    python tools/bench_shared.py                    # some 4 minutes
    python tools/bench_shared.py --against 68055be  # and how much faster than that commit, some 8 minutes

  shared_vs_quiet.one   ears a second beside one busy process, over those on a quiet machine; a fair share of two cores is 0.75
  shared_vs_quiet.two   the same beside two busy processes; a fair share is 0.5
  quiet_vs_before       ears a second on the quiet machine, over those of the other commit, in turn
  shared_vs_before.…    the same beside busy processes
Trains a resnet10t on twelve small exams with as many threads as there are cores; a busy process is a plain loop. Best of the
epochs but the first, since what else runs on the machine only slows.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench_startup import HOSPITAL, SPLITS, make_study, run
from builds import ROOT, checkout
from measuring import figure

from medical_fenlei import cli
from medical_fenlei.files import write_json

CACHE = (f"build_cache_ears --splits-root {SPLITS} --pct 100 --num-slices 16 --image-size 96 --crop-size 128 --num-workers 1 "
         "--cache-dir cache/bench")
TRAIN = (f"train_ear2d --splits-root {SPLITS} --pct 100 --cache-dir cache/bench --num-slices 16 --image-size 96 --crop-size 128"
         " --backbone resnet10t --batch-size 8 --epochs 6 --patience 0 --device cpu --precision fp32")
BUSY = {"quiet": 0, "one": 1, "two": 2}
ROUNDS = 3


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Build:
    """A checkout with a small study of its own."""

    def __init__(self, tree: Path, here: Path, hospital: Path) -> None:
        """Make the study in a new folder. Raises UserError if a command fails."""
        self.tree, self.here, self._times = tree, here, 0
        make_study(tree, here, hospital, CACHE)

    def ears_per_s(self, neighbours: int) -> float:
        """Return the speed of a training beside so many busy processes."""
        self._times += 1
        folder = f"outputs/shared_{self._times}"
        with busy(neighbours):
            run(self.tree, self.here, f"{TRAIN} --output-dir {folder}")
        epochs = [json.loads(line) for line in (self.here / folder / "metrics.jsonl").read_text().splitlines()]
        return float(max(epoch["ears_per_s"] for epoch in epochs[1:]))


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)                      # as many threads as a user gets
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hospital = here / "hospital"
        hospital.mkdir()
        run(ROOT, hospital, HOSPITAL)
        build = functools.partial(Build, hospital=hospital)
        builds = {"ours": build(ROOT, here / "ours")}
        if args.against is not None:
            builds["before"] = build(stack.enter_context(checkout(args.against)), here / "before")
        speed = {(name, beside): [] for name in builds for beside in BUSY}
        for _ in range(ROUNDS):
            for (name, beside), found in speed.items():
                found.append(builds[name].ears_per_s(BUSY[beside]))
    figures = [figure("ears_per_s", speed["ours", "quiet"], "ears/s", "higher")]
    figures += [figure(f"shared_vs_quiet.{beside}", _over(speed["ours", beside], speed["ours", "quiet"]), "ratio", "higher")
                for beside in ("one", "two")]
    if args.against is not None:
        figures += [figure("quiet_vs_before" if beside == "quiet" else f"shared_vs_before.{beside}",
                           _over(speed["ours", beside], speed["before", beside]), "ratio", "higher") for beside in BUSY]
    if args.json:
        write_json(args.json, figures)
    return cli.OK


def _over(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

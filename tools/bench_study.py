"""Time of a study of short runs, in which starting a process and writing its pages count as much as training.

    python tools/bench_study.py                    # some 3 minutes
    python tools/bench_study.py --against 68055be  # and how much faster than that commit, some 20 minutes
    python tools/bench_study.py --quick --against 68055be  # four runs instead of twelve, and one pair

  matrix            seconds of run_experiments_dual: twelve seeds of a tiny network, 3 epochs each on 12 small exams
  matrix_vs_before  seconds of the other commit over ours, in pairs measured in turn
Each build makes index, manifest, splits and cache of its own from the same synthetic hospital.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import functools
import tempfile
from pathlib import Path

from bench_startup import HOSPITAL, SPLITS, make_study, run
from builds import ROOT, checkout
from measuring import figure, in_turn

from medical_fenlei import cli
from medical_fenlei.files import write_json

MATRIX = (f"run_experiments_dual --splits-root {SPLITS} --cache-dir cache/ears_hu --pcts 100 --models dual_slice_attention "
          "--backbone test_resnet --label-task normal_vs_abnormal --epochs 3 --batch-size 4 --device cpu")


class Build:
    """A checkout with a small study of its own."""

    def __init__(self, tree: Path, here: Path, hospital: Path, *, seeds: int) -> None:
        """Make the study in a new folder. seeds: number of runs of a matrix. Raises UserError if a command fails."""
        self.tree, self.here, self._times = tree, here, 0
        self._matrix = f"{MATRIX} --seeds {','.join(map(str, range(seeds)))}"
        make_study(tree, here, hospital)

    def matrix(self) -> float:
        """Return the seconds of a matrix in a folder of its own. Raises UserError if it fails."""
        self._times += 1
        return run(self.tree, self.here, f"{self._matrix} --output-dir outputs/matrix_{self._times}").end


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a matrix of four runs, once")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    seeds, repeats = (4, 1) if args.quick else (12, 3)
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hospital = here / "hospital"
        hospital.mkdir()
        run(ROOT, hospital, HOSPITAL)
        build = functools.partial(Build, hospital=hospital, seeds=seeds)
        ours = build(ROOT, here / "ours")
        if args.against is None:
            found = [figure("matrix", [ours.matrix() for _ in range(repeats)], "s", "lower")]
        else:
            other = build(stack.enter_context(checkout(args.against)), here / "before")
            pairs = in_turn(ours.matrix, other.matrix, repeats)
            found = [figure("matrix", [mine for mine, _ in pairs], "s", "lower"),
                     figure("matrix_vs_before", [theirs / mine for mine, theirs in pairs], "ratio", "higher")]
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

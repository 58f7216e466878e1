"""Are heads taken for heads, and is everything else refused or doubted? False alarms and misses on drawn scans.

    python tools/check_heads.py                    # 300 scans of heads, each as drawn and altered: some 10 minutes
    python tools/check_heads.py --quick            # 32 scans, a minute

Heads are those of bench_localize.py: rotated, tilted, off centre, short and whole, children, operated, of one ear. As drawn
none may be refused or doubted. Altered each should be: with its pixels upside down, back to front or both, whatever its header
says; with doubled HU; with its upper half repeating the lower one; with every second slice blank.
Synthetic, not clinical evidence.
"""
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np

from medical_fenlei import cli
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import Series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import Rejected
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.challenges import sample_challenge
from medical_fenlei.vocabulary import AIR

SPEC = EarSpec(image_size=16)
Slices = Callable[[int], np.ndarray]


class AlteredSeries(Series):
    """The slices of a series, each drawn once, in another arrangement than its headers say."""

    def __init__(self, series: Series, drawn: dict[int, np.ndarray], change: str) -> None:
        super().__init__(series.headers)
        self._source, self._drawn, self._change = series, drawn, change

    def slice(self, k: int) -> np.ndarray:
        """Return slice k, int16 HU (rows, columns)."""
        return ALTERED[self._change](self._image, k, self.shape[0])

    def _image(self, k: int) -> np.ndarray:
        if k not in self._drawn:
            self._drawn[k] = self._source.slice(k)
        return self._drawn[k]


def _doubled(image: np.ndarray) -> np.ndarray:
    doubled: np.ndarray = np.clip(2 * image.astype(np.int32), -1024, 3071).astype(np.int16)
    return doubled


ALTERED: dict[str, Callable[[Slices, int, int], np.ndarray]] = {
    "as drawn": lambda image, k, count: image(k),
    "upside down": lambda image, k, count: image(count - 1 - k),
    "back to front": lambda image, k, count: image(k)[::-1],
    "both": lambda image, k, count: image(count - 1 - k)[::-1],
    "HU doubled": lambda image, k, count: _doubled(image(k)),
    "repeated": lambda image, k, count: image(k % (count // 2)),
    "half blank": lambda image, k, count: image(k) if k % 2 else np.full_like(image(k), AIR),
}
"""How slice k of so many is made from the slices as drawn."""


def judge(seed: int, number: int) -> dict[str, list[str]]:
    """Return the reason or the codes of doubt of a scan for each alteration."""
    series, drawn = sample_challenge(number, seed).series, dict[int, np.ndarray]()
    found = {}
    for change in ALTERED:
        try:
            ears = prepare_ears(AlteredSeries(series, drawn, change), SPEC)
        except Rejected as rejected:
            found[change] = [rejected.reason]
            continue
        found[change] = sorted({doubt.partition(":")[0] for ear in ears.values() for doubt in ear.facts["scan_doubts"]})
    return found


def main() -> int:
    """Run the check; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--num-scans", type=cli.int_at_least(1), help="number of scans (default: 300; 32 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer scans, a minute")
    cli.add_shared_flags(parser, "num_workers", seed=0)
    args = parser.parse_args()
    scans = range(args.num_scans or (32 if args.quick else 300))
    codes: dict[str, Counter[str]] = {change: Counter() for change in ALTERED}
    caught: Counter[str] = Counter()
    for outcome in map_items(partial(judge, args.seed), scans, workers=args.num_workers, label="scans"):
        if outcome.value is None:
            raise RuntimeError(f"scan {outcome.item}: {outcome.reason} {outcome.detail}")
        for change, found in outcome.value.items():
            codes[change].update(found)
            caught[change] += bool(found)
    cli.say(f"{'':16s}{'refused or doubted':>20s}  by code")
    for change, counts in codes.items():
        listed = ", ".join(f"{code} {count}" for code, count in counts.most_common())
        cli.say(f"{change:16s}{caught[change]:8d} of {len(scans):<8d}  {listed or '-'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

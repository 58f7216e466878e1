"""Measure the anatomy network on ears as the synthetic hospitals scan them, which its training never shows.

    python tools/check_anatomy.py                                # the weights of the package, 40 exams of either hospital
    python tools/check_anatomy.py --weights artifacts/anatomy.safetensors --exams 8 --picture anatomy.png

Its training draws sharpness, noise and slices at random; here the scanners, kernels and diseases of the hospitals do it, code 4
among them, which no training shows. Prints the Dice of each structure over the voxels of all ears, by hospital, vendor and
code, and how far off each landmark is. --picture draws six ears with what was found and what was drawn. Exits with status 1 if
a structure or a landmark of the usual hospital is worse than required. Synthetic, not clinical evidence.
"""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medical_fenlei import cli, settings
from medical_fenlei.anatomy.drawn_ears import POINTS, DrawnEar
from medical_fenlei.anatomy.pretrain import measure
from medical_fenlei.config import PhysicalScale
from medical_fenlei.errors import OK, CheckFailed
from medical_fenlei.models.anatomy_ear import GRID_MM, AnatomyEar
from medical_fenlei.models.anatomy_net import AnatomyNet
from medical_fenlei.models.build import ANATOMY_WEIGHTS
from medical_fenlei.models.weights import load_weights
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.anatomy import ear_point
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.hospital import Acquisition, sample_acquisition
from medical_fenlei.phantom.population import Exam, sample_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, EarPoint, Side, Structure, vendor

FIELD_MM = (40.0, 56.0, 56.0)
SEED = 11
"""Seed of the hospitals; no other tool draws one with it."""
LEAST_DICE = {Structure.CAVITY: 0.7, Structure.CANAL: 0.7, Structure.CELLS: 0.7, Structure.OSSICLES: 0.3,
              Structure.OTIC_CAPSULE: 0.7, Structure.FACIAL_CANAL: 0.3, Structure.SINUS: 0.7}
MOST_OFF_MM = 3.0
"""Highest median distance of a landmark."""
COLOURS = ("#00000000", "tab:orange", "tab:cyan", "tab:green", "tab:red", "tab:purple", "gold", "tab:blue")


@dataclass(frozen=True)
class ScannedEar:
    """An ear of a hospital, resampled to the network's grid, with what was drawn there."""

    ear: DrawnEar
    code: int
    vendor: str


def scan(spec: HospitalSpec, exam: Exam) -> list[ScannedEar]:
    """Scan both ears of an exam, each in a field that a localizer might choose."""
    acquisition, rng = sample_acquisition(exam, spec)
    return [_scan_ear(acquisition, exam, side, rng) for side in SIDES]


def _scan_ear(acquisition: Acquisition, exam: Exam, side: Side, rng: np.random.Generator) -> ScannedEar:
    person, pose, scanner = acquisition.person, acquisition.pose, acquisition.scan
    centre = ear_point(person, pose, side, POINTS[EarPoint.TYMPANUM]) + rng.normal(0, 2.0, 3)

    def grid(voxel_mm: Iterable[float], shape: tuple[int, int, int]) -> Affine:
        z, row, column = voxel_mm
        return Affine.centred([[0, 0, z], [0, row, 0], [-side.sign * column, 0, 0]], shape, centre)

    voxel_mm = (scanner.increment_mm, scanner.pixel_mm, scanner.pixel_mm)
    slices, rows, columns = (round(field / mm) for field, mm in zip(FIELD_MM, voxel_mm, strict=True))
    hu = acquire(acquisition.draw(grid(voxel_mm, (slices, rows, columns)), (slices, rows, columns)).hu, scanner, rng)
    network = AnatomyEar(hu.shape, PhysicalScale(voxel_mm, 500, 3000, channel=0), dropout=0, outputs=1)
    on_grid = network.on_grid(torch.from_numpy(hu.astype(np.float32))[None])[0].numpy()
    own = grid(GRID_MM, on_grid.shape)
    drawn = draw_head(person, acquisition.changes, pose, own, on_grid.shape, scanner.gravity_lps, structures=True)
    points = [own.inverse.apply(ear_point(person, pose, side, POINTS[point])) for point in EarPoint]
    assert drawn.structures is not None
    ear = DrawnEar(np.rint(on_grid).astype(np.int16), drawn.structures, np.array(points, np.float32))
    return ScannedEar(ear, exam.codes[side], vendor(scanner.vendor))


def groups(hospital: str, ears: list[ScannedEar]) -> Iterator[tuple[str, list[ScannedEar]]]:
    """Yield all ears of a hospital, those of each vendor and those of each code, with a name."""
    yield hospital, ears
    for name in sorted({ear.vendor for ear in ears}):
        yield f"{hospital}, {name}", [ear for ear in ears if ear.vendor == name]
    for code in sorted({ear.code for ear in ears}):
        yield f"{hospital}, code {code}", [ear for ear in ears if ear.code == code]


def table(model: AnatomyNet, each: Iterable[tuple[str, list[ScannedEar]]]) -> pd.DataFrame:
    """Return Dice of each structure and median and 95th percentile of each landmark's distance (mm), a row per group."""
    rows = {}
    for name, ears in each:
        found = measure(model, (own.ear for own in ears))
        rows[name] = {"ears": len(ears), **{structure.name.lower(): dice for structure, dice in found.dice.items()}}
        for point, off in found.off_mm.items():
            for word, share in (("median", 50), ("95 %", 95)):
                rows[name][f"{point.name.lower()} {word}"] = float(np.percentile(off, share)) if len(off) else float("nan")
    return pd.DataFrame(rows).T


@torch.no_grad()
def draw(model: AnatomyNet, ears: list[ScannedEar], file: Path) -> None:
    """Draw a slice of each ear: as scanned, with what was found, and with what was drawn."""
    figure = Figure((2.4 * len(ears), 7.4), layout="constrained")
    axes = figure.subplots(3, len(ears), squeeze=False)
    for column, own in zip(axes.T, ears, strict=True):
        found = model(torch.from_numpy(own.ear.hu.astype(np.float32))[None]).logits[0].argmax(0).numpy()
        k = int(np.argmax((own.ear.structures == Structure.CAVITY).sum((1, 2))))
        for axis, over in zip(column, (None, found[k], own.ear.structures[k]), strict=True):
            axis.imshow(own.ear.hu[k], cmap="gray", vmin=-1000, vmax=2000)
            if over is not None:
                draw_structures(axis, over)
            axis.set_axis_off()
        column[0].set_title(f"{own.vendor}, code {own.code}", fontsize=9)
    for axis, word in zip(axes[:, 0], ("scan", "found", "drawn"), strict=True):
        axis.text(-0.05, 0.5, word, transform=axis.transAxes, rotation=90, va="center", ha="right")
    add_legend(figure)
    figure.savefig(file, dpi=110)


def draw_structures(axis: Axes, structures: np.ndarray) -> None:
    """Colour the structures (H, W) of a slice over its picture."""
    axis.imshow(structures, cmap=ListedColormap(COLOURS), vmin=0, vmax=len(Structure) - 1, alpha=0.5, interpolation="nearest")


def add_legend(figure: Figure) -> None:
    """Name the colours of the structures below a figure."""
    figure.legend(handles=[Patch(color=COLOURS[one], label=one.name.lower().replace("_", " ")) for one in Structure if one],
                  loc="outside lower center", ncols=7, fontsize=9)


def main() -> int:
    """Run the check; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--weights", type=Path, default=ANATOMY_WEIGHTS, metavar="FILE", help="default: those of the package")
    parser.add_argument("--exams", type=cli.int_at_least(4), default=40, metavar="N", help="exams of each hospital "
                        "(default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw six ears of the hard hospital")
    cli.add_shared_flags(parser, "num_workers")
    args = parser.parse_args()
    model = AnatomyNet()
    load_weights(model, args.weights, flag="--weights")
    each: dict[str, list[ScannedEar]] = {}
    for difficulty in settings.choices(HospitalSpec, "difficulty"):
        spec = HospitalSpec(num_exams=args.exams, seed=SEED, difficulty=difficulty)
        exams = sample_population(args.exams, SEED, "as_in_life", difficulty)
        outcomes = map_items(partial(scan, spec), exams, workers=args.num_workers, label=f"{difficulty} hospital")
        each[difficulty] = [ear for outcome in outcomes for ear in outcome.value or ()]
    if args.picture:
        draw(model, each["hard"][:6], args.picture)
    found = table(model, [group for name, ears in each.items() for group in groups(name, ears)])
    cli.show(found.round(2).reset_index(names="ears of"))
    usual = found.loc["usual"]
    low = [structure.name.lower() for structure, least in LEAST_DICE.items() if not usual[structure.name.lower()] >= least]
    far = [point.name.lower() for point in EarPoint if not usual[f"{point.name.lower()} median"] <= MOST_OFF_MM]
    if low or far:
        raise CheckFailed(f"worse than required in the usual hospital: {', '.join(low + far)}")
    return OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

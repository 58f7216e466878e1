"""Draw what the anatomy network finds in a real scan, slice by slice: to be looked at, since nobody has drawn the truth.

    python tools/show_anatomy.py data/medical_data_2/2020-03-04/00012345/SE000002 --picture anatomy.png
    python tools/show_anatomy.py /usr/share/doc/invesalius-examples/examples/Cranium.inv3 --picture anatomy.png

Takes a folder with one series of DICOM, or a project of InVesalius (Debian's package invesalius-examples has a cranial CT). The
localizer finds both ears; prints how far away the anatomy network finds the tympanic cavity, and the volume of each structure.
Nothing is written but the picture.
"""
import plistlib
import tarfile
from pathlib import Path

import numpy as np
import torch
from check_anatomy import add_legend, draw_structures
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

from medical_fenlei import cli
from medical_fenlei.anatomy.drawn_ears import SHAPE
from medical_fenlei.anatomy.second_opinion import AnatomyCheck
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.localize import locate
from medical_fenlei.errors import OK
from medical_fenlei.models.anatomy_ear import GRID_MM
from medical_fenlei.models.anatomy_net import AnatomyNet
from medical_fenlei.models.build import ANATOMY_WEIGHTS
from medical_fenlei.models.weights import load_weights
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side, Structure

HEIGHTS_MM = (-9, -6, -3, 0, 3, 6, 9)


def read_inv3(path: Path) -> tuple[np.ndarray, Affine]:
    """Read the volume of an InVesalius project: int16 HU (K, H, W) and its voxel index to mm, slices upwards, rows forwards.

    The file does not say which side is left: columns are taken to run to the left.
    """
    with tarfile.open(path) as project:
        members = {Path(member.name).name: member for member in project.getmembers()}
        facts = plistlib.loads(project.extractfile(members["main.plist"]).read())  # type: ignore[union-attr]
        raw = project.extractfile(members[facts["matrix"]["filename"]]).read()  # type: ignore[union-attr]
    shape = tuple(facts["matrix"]["shape"])
    column, row, between = facts["spacing"]
    volume = np.frombuffer(raw, np.int16, count=int(np.prod(shape))).reshape(shape)
    return volume, Affine.centred([[0, 0, between], [0, -row, 0], [column, 0, 0]], shape, np.zeros(3))


def read(path: Path) -> tuple[np.ndarray, Affine]:
    """Read a volume, HU (K, H, W), with its voxel index to LPS mm."""
    if path.suffix == ".inv3":
        return read_inv3(path)
    series = open_series(path)
    return np.stack([series.slice(k) for k in range(series.shape[0])]), series.affine


def on_grid(volume: np.ndarray, affine: Affine, centre: np.ndarray, side: Side) -> np.ndarray:
    """Resample the surroundings of an ear to the grid on which the network learnt."""
    z, row, column = GRID_MM
    grid = Affine.centred([[0, 0, z], [0, row, 0], [-side.sign * column, 0, 0]], SHAPE, centre)
    places = affine.inverse.apply(grid.apply(np.indices(SHAPE).reshape(3, -1).T))
    return map_coordinates(volume.astype(np.float32), places.T, order=1, mode="nearest").reshape(SHAPE)


@torch.no_grad()
def main() -> int:
    """Draw and print; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("scan", type=Path, help="folder of a series, or file .inv3")
    parser.add_argument("--weights", type=Path, default=ANATOMY_WEIGHTS, metavar="FILE", help="default: those of the package")
    parser.add_argument("--picture", type=Path, default=Path("anatomy.png"), metavar="PNG", help="default: %(default)s")
    args = parser.parse_args()
    volume, affine = read(args.scan)
    model, found = AnatomyNet().eval(), locate(volume, affine)
    load_weights(model, args.weights, flag="--weights")
    check = AnatomyCheck(model)
    figure = Figure((2.3 * len(HEIGHTS_MM), 4 * 2.4), layout="constrained")
    axes = figure.subplots(2 * len(SIDES), len(HEIGHTS_MM))
    for side, rows in zip(SIDES, np.split(axes, len(SIDES)), strict=True):
        centre = np.array(found.ears[side].centre)
        opinion = check.look(*_seen_from(volume, affine, side), centre)
        hu = on_grid(volume, affine, centre, side)
        structures = model(torch.from_numpy(hu)[None]).logits[0].argmax(0).numpy()
        sizes = {one.name.lower(): int((structures == one).sum() * np.prod(GRID_MM)) for one in Structure if one}
        cli.say(f"{side}: tympanic cavity {opinion.apart_mm:.1f} mm away; mm³: {sizes}")
        for (plain, over), height in zip(rows.T, HEIGHTS_MM, strict=True):
            k = round((SHAPE[0] - 1) / 2 + height / GRID_MM[0])
            for axis in (plain, over):
                axis.imshow(hu[k], cmap="gray", vmin=-1000, vmax=2000)
                axis.set_axis_off()
            draw_structures(over, structures[k])
            plain.set_title(f"{side}, {height:+d} mm", fontsize=9)
    add_legend(figure)
    figure.savefig(args.picture, dpi=90)
    cli.say(f"wrote {args.picture}; no more than a picture of what a network finds that learnt from drawn ears")
    return OK


def _seen_from(volume: np.ndarray, affine: Affine, side: Side) -> tuple[np.ndarray, Affine]:
    """Return the volume with column 0 lateral on this side, rows from front to back, and slices upwards."""
    for axis, wanted in ((0, (0, 0, 1)), (1, (0, 1, 0)), (2, (-side.sign, 0, 0))):
        if affine.direction(axis) @ wanted < 0:
            volume, affine = np.flip(volume, axis), affine.flipped(axis, volume.shape[axis])
    return volume, affine


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Check that two independent readers of DICOM, SimpleITK and dcm2niix, see the same HU at the same places as this project.

    python tools/check_readers.py --base data/demo/data/medical_data_2                   # every series below this folder
    python tools/check_readers.py --base … --json readers.json

Every usable series is read by all three. At voxels of ours, chosen at random, each other reader has to show the same HU (within
1), where its own geometry has a voxel within 0.01 mm of ours. Prints what each reader did, by our notes on the geometry of the
series; exits with status 1 if a reader that claims to have read a regular series differs. docs/artifacts.md says who is right
where they differ.
"""
import collections
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medical_fenlei import cli
from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.stacks import Stack, read_stacks
from medical_fenlei.dicom.stored_bits import BITS_TAGS, stored_bits
from medical_fenlei.dicom.volume import Series
from medical_fenlei.errors import CHECK_FAILED, OK, Rejected
from medical_fenlei.files import write_json
from medical_fenlei.vocabulary import AIR

VOXELS = 400
SAME_MM, SAME_HU = 0.01, 1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Reading:
    """A volume as another reader shows it."""

    hu: np.ndarray
    """(i, j, k), in the reader's own order."""

    affine: np.ndarray
    """(4, 4): voxel index (i, j, k, 1) to LPS mm."""


def by_simpleitk(paths: list[Path]) -> Reading:
    """Read a series with SimpleITK, which takes the files in the order given: ours, from below."""
    import SimpleITK as sitk

    if len(paths) == 1:
        return _of_image(sitk.ReadImage(paths[0], imageIO="GDCMImageIO"))
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetForceOrthogonalDirection(False)                    # a tilted gantry shears the volume
    reader.SetFileNames([str(path) for path in paths])
    return _of_image(reader.Execute())


def _of_image(image: Any) -> Reading:
    import SimpleITK as sitk

    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Reading(sitk.GetArrayViewFromImage(image).T.copy(), affine)


def by_dcm2niix(paths: list[Path]) -> Reading:
    """Convert a series with dcm2niix and read the result. Raises Rejected where it makes none, or several."""
    import dcm2niix  # type: ignore[import-untyped]
    import nibabel

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given", Path(folder) / "made"
        given.mkdir()
        made.mkdir()
        for number, path in enumerate(paths):
            os.symlink(path.resolve(), given / f"{number:05d}.dcm")
        done = subprocess.run([dcm2niix.bin, "-b", "n", "-z", "n", "-f", "volume", "-o", made, given], capture_output=True)
        files = sorted(made.glob("*.nii"))
        whole = [file for file in files if not file.stem.endswith(("_Eq_1", "_Tilt_1"))]   # resampled copies
        converted = re.search(rb"Convert (\d+) DICOM", done.stdout)
        if done.returncode or len(whole) != 1 or converted is None:
            raise Rejected("no_volume", f"status {done.returncode}, {len(whole)} volumes")
        if int(converted[1]) != len(paths):
            raise Rejected("no_volume", f"{int(converted[1])} of {len(paths)} files converted, without an error")
        image: nibabel.nifti1.Nifti1Image = nibabel.load(whole[0])  # type: ignore[assignment]
        return Reading(np.asarray(image.get_fdata()), LPS_TO_RAS @ image.affine)


READERS = {"SimpleITK": by_simpleitk, "dcm2niix": by_dcm2niix}


def compare(series: Series, reading: Reading, rng: np.random.Generator) -> tuple[str, str]:
    """Return `agrees`, `other places` or `other HU`, and in words by how much."""
    shape = np.array(series.shape)
    voxels = np.column_stack([rng.integers(0, n, VOXELS) for n in shape])
    voxels[:8] = [[k, r, c] for k in (0, shape[0] - 1) for r in (0, shape[1] - 1) for c in (0, shape[2] - 1)]
    places = series.affine.apply(voxels)
    index = (np.linalg.inv(reading.affine) @ np.column_stack([places, np.ones(VOXELS)]).T)[:3].T
    nearest = np.rint(index).astype(int)
    apart = np.linalg.norm((index - nearest) @ reading.affine[:3, :3].T, axis=1)
    if (nearest < 0).any() or (nearest >= reading.hu.shape).any() or apart.max() > SAME_MM:
        return "other places", f"{reading.hu.shape[::-1]}, up to {apart.max():.2f} mm"
    slices = {k: series.slice(k) for k in set(voxels[:, 0].tolist())}
    ours = np.array([slices[k][r, c] for k, r, c in voxels.tolist()], float)
    theirs = reading.hu[tuple(nearest.T)].astype(float)
    differ = (np.abs(ours - theirs) > SAME_HU) & (ours != AIR)   # padding is air to us, and a value of its own to others
    padded = int(((np.abs(ours - theirs) > SAME_HU) & (ours == AIR)).sum())
    if differ.any():
        return "other HU", f"{int(differ.sum())} of {VOXELS} voxels, up to {np.abs(ours - theirs)[differ].max():.0f} HU"
    return "agrees", f"{padded} voxels of padding are other values" if padded else ""


def series_below(base: Path) -> Iterator[tuple[str, Stack]]:
    """Yield the series of every folder below a base folder, each with its folder."""
    for folder in sorted({path.parent for path in base.rglob("*") if path.is_file()}):
        for stack in read_stacks(folder)[0]:
            yield folder.relative_to(base).as_posix(), stack


def judged(folder: str, stack: Stack) -> list[dict[str, str]]:
    """Return what each reader did with a series that is usable; nothing for others."""
    try:
        stack.arranged()
        series = Series(stack.headers)
    except Rejected:
        return []
    notes = sorted({note.partition(":")[0] for note in (*stack.notes, *series.geometry.notes)})
    first = read_dataset(series.headers[0].path, ["PhotometricInterpretation", *BITS_TAGS])
    if first.get("PhotometricInterpretation") == "MONOCHROME1":
        notes.append("monochrome1")
    if not stored_bits(first).are_lowest:
        notes.append("upper_bits")
    paths = list(dict.fromkeys(header.path for header in series.headers))
    rows = []
    for name, read in READERS.items():
        try:
            result, detail = compare(series, read(paths), np.random.default_rng(0))
        except (Rejected, RuntimeError, TypeError) as error:           # SimpleITK raises the last for names that are not UTF-8
            result, detail = "not read", str(error).strip().splitlines()[-1][:120]
        rows.append({"series": folder, "reader": name, "notes": " ".join(notes), "result": result, "detail": detail})
    return rows


def main() -> int:
    """Compare the readers; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder with DICOM series below it")
    parser.add_argument("--json", type=Path, help="also write every comparison to this file")
    args = parser.parse_args()
    rows = [row for folder, stack in series_below(args.base) for row in judged(folder, stack)]
    counts = collections.Counter((row["reader"], row["notes"] or "regular", row["result"]) for row in rows)
    for (reader, notes, result), number in sorted(counts.items()):
        cli.say(f"{reader:10s} {notes:32s} {result:14s} {number:4d} series")
    wrong = [row for row in rows if not row["notes"] and row["result"].startswith("other")]
    for row in wrong:
        cli.say(f"{row['series']}: {row['reader']}: {row['result']}: {row['detail']}")
    if args.json:
        write_json(args.json, json.loads(json.dumps(rows)))
    return CHECK_FAILED if wrong else OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

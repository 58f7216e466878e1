"""How fast, and in how much memory, the cache is built: against its floor, against doing less at once, against MONAI.

    python tools/bench_cache.py                    # some 10 minutes on two cores
    python tools/bench_cache.py --quick            # smaller exams, under a minute

An exam of 160 slices of 512 x 512, both ears, the default options, stored raw and as JPEG Lossless (JPEG-LS). Ratios are
medians of pairs measured in turn in this run:
  exam_vs_decode       the whole exam over its floor: each header read once, each used slice decoded once, one resize of every
                       slice and one flushed write an ear (lower is better)
  speedup_vs_per_ear   each ear by itself over both together
  speedup_vs_monai     a MONAI pipeline (load the series, orient, space, crop, save) over ours
  scaling_2            what two processes gain over one, over what they gain on a bare loop
  peak_mb              of one worker, on 467 slices (its own process, VmHWM)
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measuring
import numpy as np
from measuring import figure, scaling
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from medical_fenlei import cli
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.files import write_json
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.hospital import examine
from medical_fenlei.phantom.population import draw_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.series import SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.vocabulary import SIDES

SYNTAXES = {"raw": str(ExplicitVRLittleEndian), "jpeg": str(JPEGLSLossless)}
SPEC = EarSpec()
Job = Callable[[Path, Path], None]
"""From a series folder to files in another folder."""

WORKER = r"""
import json, re, sys
from pathlib import Path
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.spec import EarSpec
from medical_fenlei.ears.store import EarStore
spec = EarSpec(num_slices=int(sys.argv[3]))
store = EarStore(Path(sys.argv[2]), spec)
for side, ear in prepare_ears(open_series(Path(sys.argv[1])), spec).items():
    store.write("1", side, ear.volume, ear.facts)
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps(int(peak[1]) / 1024))
"""
"""Its own process, so that the peak is that of one worker (VmHWM; ru_maxrss would begin at the parent's)."""


def write_exam(folder: Path, syntax: str, slices: int) -> None:
    spec = HospitalSpec(num_exams=4, matrix=512, slices=slices)
    exam = draw_population(spec.num_exams, spec.seed)[0]
    seen, rng = examine(exam, spec)
    scan = replace(seen.scan, transfer_syntax=syntax)
    hu = acquire(draw_head(exam.person, seen.changes, seen.pose, seen.affine, scan.shape).hu, scan, rng)
    facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="bench")
    write_series(folder, hu, seen.affine, scan, facts, rng)


def ours(series: Path, out: Path) -> None:
    """Both ears of an exam, as the builder makes them."""
    store = EarStore(out, SPEC)
    for side, ear in prepare_ears(open_series(series), SPEC).items():
        store.write("1", side, ear.volume, ear.facts)


def per_ear(series: Path, out: Path) -> None:
    store = EarStore(out, SPEC)
    for side in SIDES:
        for own, ear in prepare_ears(open_series(series), SPEC, (side,)).items():
            store.write("1", own, ear.volume, ear.facts)


def floor(series: Path, out: Path) -> None:
    """What no builder can leave out, by pydicom and OpenCV alone."""
    import cv2
    import pydicom

    needed = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "RescaleSlope",
              "RescaleIntercept"]
    paths = sorted(series.iterdir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=needed) for path in paths]
    places = [float(header.ImagePositionPatient[2]) for header in headers]
    order = np.argsort(places)
    used = np.rint(np.linspace(0, len(order) - 1, SPEC.num_slices)).astype(int)
    slices = []
    for i in order[used]:
        image = pydicom.dcmread(paths[i])
        slices.append((image.pixel_array * int(image.RescaleSlope) + int(image.RescaleIntercept)).astype(np.int16))
    edge, top = SPEC.crop_size, (slices[0].shape[0] - SPEC.crop_size) // 2
    out.mkdir(parents=True, exist_ok=True)
    for side, left in zip(SIDES, (0, slices[0].shape[1] - edge), strict=True):
        cut = [cv2.resize(image[top:top + edge, left:left + edge], (SPEC.image_size, SPEC.image_size),
                          interpolation=cv2.INTER_LINEAR) for image in slices]
        with open(out / f"{side}.npy", "wb") as file:
            np.save(file, np.stack(cut))
            file.flush()
            os.fsync(file.fileno())


def monai(series: Path, out: Path) -> None:
    """The same work as the library's transforms do it: the whole series, oriented, spaced as the cache is, cropped, saved."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd

    out.mkdir(parents=True, exist_ok=True)
    series_of = open_series(series)
    pixel = float(np.linalg.norm(series_of.affine[:3, 2])) * SPEC.crop_size / SPEC.image_size
    between = float(np.linalg.norm(series_of.affine[:3, 0])) * (series_of.shape[0] - 1) / (SPEC.num_slices - 1)
    pipeline = Compose([
        LoadImaged("image", reader="PydicomReader"), EnsureChannelFirstd("image"), 
        Orientationd("image", axcodes="LPS", labels=(("R", "L"), ("A", "P"), ("I", "S"))),
        Spacingd("image", pixdim=(pixel, pixel, between), mode="bilinear"),
    ])
    image = pipeline({"image": str(series)})["image"].numpy()[0]
    middle = (image.shape[1] - SPEC.image_size) // 2
    for side, first in zip(SIDES, (image.shape[0] - SPEC.image_size, 0), strict=True):
        cut = image[max(0, first):max(0, first) + SPEC.image_size, middle:middle + SPEC.image_size]
        with open(out / f"{side}.npy", "wb") as file:
            np.save(file, cut.transpose(2, 1, 0).astype(np.int16))
            file.flush()
            os.fsync(file.fileno())


def seconds(job: Job, series: Path) -> float:
    with tempfile.TemporaryDirectory() as out:
        return measuring.seconds(lambda: job(series, Path(out) / "cache"))


def ratios(one: Job, other: Job, series: Path, pairs: int) -> list[float]:
    """Time of the one over that of the other."""
    times = measuring.in_turn(lambda: seconds(one, series), lambda: seconds(other, series), pairs)
    return [a / b for a, b in times]


def work(series: str) -> None:
    seconds(ours, Path(series))


def peak(syntax: str, slices: int) -> float:
    """MB of a worker that takes every slice of the series."""
    with tempfile.TemporaryDirectory() as folder:
        write_exam(Path(folder) / "series", syntax, slices)
        said = subprocess.run([sys.executable, "-c", WORKER, f"{folder}/series", f"{folder}/cache", str(slices)],
                              check=True, capture_output=True, text=True)
        return float(json.loads(said.stdout))


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller exams and fewer repeats, under a minute")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    slices, pairs, many, exams = (40, 2, 48, 4) if args.quick else (160, 9, 467, 8)
    few = max(2, pairs // 3)
    found = []
    context = multiprocessing.get_context("fork")
    plain = {"initializer": signal.signal, "initargs": (signal.SIGTERM, signal.SIG_DFL)}
    with context.Pool(1, **plain) as one, context.Pool(2, **plain) as two:
        for name, syntax in SYNTAXES.items():
            with tempfile.TemporaryDirectory() as folder:
                series = Path(folder) / "series"
                write_exam(series, syntax, slices)
                found += [
                    figure(f"exam_vs_decode.{name}", ratios(ours, floor, series, pairs), "ratio", "lower"),
                    figure(f"speedup_vs_per_ear.{name}", ratios(per_ear, ours, series, pairs), "ratio", "higher"),
                    figure(f"speedup_vs_monai.{name}", ratios(monai, ours, series, few), "ratio", "higher"),
                    figure(f"scaling_2.{name}", [scaling(work, [str(series)] * exams, one, two) for _ in range(few)], "ratio",
                           "higher"),
                    figure(f"peak_mb.{name}", [peak(syntax, many)], "MB", "lower"),
                ]
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

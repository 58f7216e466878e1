"""Time and memory of building the cache, against a lower bound, against one ear at a time, and against MONAI.

    python tools/bench_cache.py                    # some 10 minutes on two cores
    python tools/bench_cache.py --quick            # smaller exams, under a minute
    python tools/bench_cache.py --against 68055be  # only how much faster than that commit, some 2 minutes

An exam of 160 slices of 512 x 512, both ears, the default options, stored raw and as lossless JPEG (JPEG-LS). Ratios are
medians of pairs measured in turn:
  exam_vs_decode       the whole exam over its lower bound: each header read once, each used slice decoded once, one resize of
                       every slice and one flushed write per ear (lower is better)
  speedup_vs_per_ear   each ear separately over both together
  speedup_vs_monai     a MONAI pipeline (load the series, orient, space, crop, save) over ours
  scaling_2            speedup of two processes over one, relative to their speedup on a plain loop
  peak_mb              peak memory of one worker on 467 slices (in its own process, VmHWM)
  speedup_vs_before    time of the other commit over ours, per exam; here `jpeg` is the older JPEG Lossless (process 14)
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import measuring
import numpy as np
import pydicom
from builds import ROOT, Worker, checkout
from measuring import figure, scaling
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, JPEGLSLossless

from medical_fenlei import cli
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.files import write_json
from medical_fenlei.phantom.hospital import sample_acquisition
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.series import SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.vocabulary import SIDES

SYNTAXES = {"raw": str(ExplicitVRLittleEndian), "jpeg": str(JPEGLSLossless)}
SPEC = EarSpec()
Job = Callable[[Path, Path], None]
"""Reads a series folder and writes files to another folder."""

WORKER = r"""
import json, re, sys
from pathlib import Path
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.store import EarStore
spec = EarSpec(num_slices=int(sys.argv[3]))
store = EarStore(Path(sys.argv[2]), spec)
for side, ear in prepare_ears(open_series(Path(sys.argv[1])), spec).items():
    store.write("1", side, ear.volume, ear.facts)
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps(int(peak[1]) / 1024))
"""
"""Code of a process of its own, whose peak memory is that of one worker (VmHWM; ru_maxrss includes the parent's)."""


def write_exam(folder: Path, syntax: str, slices: int) -> None:
    """Write one drawn exam in this transfer syntax."""
    spec = HospitalSpec(num_exams=4, matrix=512, slices=slices)
    exam = sample_population(spec.num_exams, spec.seed)[0]
    acquisition, rng = sample_acquisition(exam, spec)
    scan = replace(acquisition.scan, transfer_syntax=syntax)
    hu = acquire(acquisition.draw(acquisition.affine, scan.shape).hu, scan, rng)
    facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="bench")
    write_series(folder, hu, acquisition.affine, scan, facts, rng)


def write_jpeg(series: Path) -> None:
    """Rewrite the files of a series as JPEG Lossless (process 14, selection value 1), as most archives do."""
    import imagecodecs

    for path in series.iterdir():
        image = pydicom.dcmread(path)
        words = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
        image.PixelData = encapsulate([imagecodecs.jpeg8_encode(words, lossless=True, predictor=1, bitspersample=16)])
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        image.save_as(path, enforce_file_format=True)


def ours(series: Path, out: Path) -> None:
    """Cache both ears of an exam together, as the builder does."""
    store = EarStore(out, SPEC)
    for side, ear in prepare_ears(open_series(series), SPEC).items():
        store.write("1", side, ear.volume, ear.facts)


def per_ear(series: Path, out: Path) -> None:
    """Cache each ear of an exam separately."""
    store = EarStore(out, SPEC)
    for side in SIDES:
        for own, ear in prepare_ears(open_series(series), SPEC, (side,)).items():
            store.write("1", own, ear.volume, ear.facts)


def floor(series: Path, out: Path) -> None:
    """Do only what every builder must do, with pydicom and OpenCV."""
    import cv2
    import pydicom

    needed = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "RescaleSlope",
              "RescaleIntercept"]
    paths = sorted(series.iterdir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=needed) for path in paths]
    order = np.argsort([float(header.ImagePositionPatient[2]) for header in headers])
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
    """Do the same work with MONAI transforms: load the whole series, orient, space like the cache, crop, save."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd

    out.mkdir(parents=True, exist_ok=True)
    series_of = open_series(series)
    pixel = float(series_of.affine.spacing[2]) * SPEC.crop_size / SPEC.image_size
    between = float(series_of.affine.spacing[0]) * (series_of.shape[0] - 1) / (SPEC.num_slices - 1)
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
    """Return the seconds of a job, with a fresh output folder."""
    with tempfile.TemporaryDirectory() as out:
        return measuring.seconds(lambda: job(series, Path(out) / "cache"))


def ratios(one: Job, other: Job, series: Path, pairs: int) -> list[float]:
    """Return the time of `one` over that of `other`, for pairs measured in turn."""
    times = measuring.in_turn(lambda: seconds(one, series), lambda: seconds(other, series), pairs)
    return [a / b for a, b in times]


def against(commit: str, slices: int, pairs: int) -> list[dict[str, object]]:
    """Return how many times as fast as another commit this build caches an exam, by kind of file."""
    found: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        now, before = (stack.enter_context(Worker(tree, Path(__file__).stem, "tool.seconds(tool.ours, path)"))
                       for tree in (ROOT, stack.enter_context(checkout(commit))))
        for name in ("raw", "jpeg"):
            write_exam(folder / name, str(ExplicitVRLittleEndian), slices)
            if name == "jpeg":
                write_jpeg(folder / name)
            times = measuring.in_turn(partial(before, folder / name), partial(now, folder / name), pairs)
            found.append(figure(f"speedup_vs_before.{name}", [a / b for a, b in times], "ratio", "higher"))
    return found


def work(series: str) -> None:
    """Cache one exam; the job of a worker process."""
    seconds(ours, Path(series))


def peak(syntax: str, slices: int) -> float:
    """Return the peak memory in MB of a worker that uses every slice of the series."""
    with tempfile.TemporaryDirectory() as folder:
        write_exam(Path(folder) / "series", syntax, slices)
        done = subprocess.run([sys.executable, "-c", WORKER, f"{folder}/series", f"{folder}/cache", str(slices)],
                              check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout))


def measured(slices: int, pairs: int, many: int, exams: int) -> list[dict[str, object]]:
    """Return the figures of this build."""
    found: list[dict[str, object]] = []
    few = max(2, pairs // 3)
    context = multiprocessing.get_context("fork")
    default_signal = signal.signal, (signal.SIGTERM, signal.SIG_DFL)       # workers end on SIGTERM
    with context.Pool(1, *default_signal) as one, context.Pool(2, *default_signal) as two:
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
    return found


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller exams and fewer repeats, under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project, and nothing else")
    args = parser.parse_args()
    slices, pairs, many, exams = (40, 2, 48, 4) if args.quick else (160, 9, 467, 8)
    found = against(args.against, slices, 2 * pairs) if args.against else measured(slices, pairs, many, exams)
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

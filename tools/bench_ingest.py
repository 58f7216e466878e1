"""Time of scanning a hospital's disk and of scanning it again, against `find` and against pydicom.

    python tools/bench_ingest.py                   # some 10 minutes; 680,000 small files in a temporary folder (3 GB)
    python tools/bench_ingest.py --quick           # 8,000 files, under a minute
    python tools/bench_ingest.py --against 68055be # only how much faster than that commit, some 20 minutes

The sheet lists 4,012 exams, 153 of them unlabelled, with 170 files each: full headers with tiny images. Ratios are medians of
pairs measured in turn with a warm disk cache:
  scan_vs_find        finding the exams and listing their files with name, size and time, over `find -printf '%p %s %T@'`
  rescan_vs_find      the whole command build_index on an unchanged tree that was indexed before, over the same find
  headers_vs_pydicom  headers per second that we read and check, over plain pydicom reading the same attributes
  scaling_2           speedup of two processes over one in reading exams, relative to their speedup on a plain loop
  speedup_vs_before.index  time of the first build_index of the other commit over ours, on the whole tree
The benchmark fails if the index does not count the exams, the unlabelled exams and the usable exams of the tree.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import array
import functools
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
from builds import ROOT, checkout, environment
from measuring import figure, in_turn, scaling, seconds
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medical_fenlei import cli
from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.errors import CheckFailed
from medical_fenlei.files import write_json
from medical_fenlei.ingest.exam_files import list_exam
from medical_fenlei.ingest.scan import scan_exam
from medical_fenlei.ingest.tree import find_exams

EXAMS, UNLABELLED, SLICES, SCOUTS = 4012, 153, 168, 2
SOFT = (1064).to_bytes(2, "little")
"""A stored value of soft tissue, which differs from slice to slice: no two slices of a scan have the same pixels."""
USED = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "Rows", "Columns", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Manufacturer", "ManufacturerModelName",
        "ConvolutionKernel", "BitsAllocated", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames", "RescaleSlope",
        "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "AcquisitionNumber"]


def header(exam: int) -> Dataset:
    """Return a header as scanners write it, with the attributes that we read and others."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.{exam + 10000}.00000"
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, name, "20230105")
    for name in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, name, "101112.130000")
    ds.AccessionNumber, ds.Modality, ds.Manufacturer, ds.InstitutionName = str(exam), "CT", "SIEMENS", "A hospital"
    ds.StudyDescription, ds.SeriesDescription, ds.ManufacturerModelName = "Temporal bone", "InnerEar 0.6 U75u", "Sensation 64"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = f"Bench^{exam}", str(exam), "19700101", "F"
    ds.PatientAge, ds.BodyPartExamined, ds.KVP, ds.SliceThickness = "053Y", "HEAD", "120", "0.6"
    ds.DataCollectionDiameter, ds.ReconstructionDiameter, ds.GantryDetectorTilt, ds.TableHeight = "500", "220", "0", "140"
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure, ds.FilterType, ds.ConvolutionKernel = 1000, 200, 200, "0", "U75u"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid(entropy_srcs=[word, str(exam)]) for word in ("study", "series"))
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 2, 1, 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = "-96.0\\-96.0\\1000.00000", [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.SliceLocation = generate_uid(entropy_srcs=["frame", str(exam)]), "0"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 8, 8
    ds.PixelSpacing, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = [24, 24], 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = "700", "4000", "-1024", "1"
    ds.PixelData = array.array("H", [0, 0, 1060, 1064, 1068, 1064, 0, 2500] * 8).tobytes()   # air, soft tissue and bone
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def encoded(dataset: Dataset) -> bytes:
    """Return the dataset as a DICOM file."""
    with tempfile.TemporaryFile() as file:
        dataset.save_as(file, enforce_file_format=True)
        file.seek(0)
        return file.read()


def write_exam(folder: Path, exam: int, slices: int) -> None:
    """Write a series and a scout; position, UID and pixels of each file are replaced in the bytes of one."""
    dataset = header(exam)
    whole = encoded(dataset)
    uid = dataset.SOPInstanceUID.encode()
    (folder / "SE2").mkdir(parents=True)
    (folder / "SE1").mkdir()
    for k in range(slices):
        own = whole.replace(uid, uid[:-5] + b"%05d" % k).replace(b"1000.00000", b"%10.5f" % (1000 + 0.6 * k))
        own = own.replace(SOFT, (int.from_bytes(SOFT, "little") - k % 100).to_bytes(2, "little"))
        (folder / "SE2" / f"IM{k:06d}").write_bytes(own)
    dataset.ImageOrientationPatient, dataset.ImageType = [1, 0, 0, 0, 0, -1], ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesInstanceUID = generate_uid()
    for k in range(SCOUTS):
        dataset.SOPInstanceUID = generate_uid()
        (folder / "SE1" / f"IM{k:06d}").write_bytes(encoded(dataset))


def write_hospital(here: Path, exams: int, unlabelled: int, slices: int) -> None:
    """Write the DICOM tree and the label sheet."""
    rows = []
    for exam in range(exams):
        date = f"20{exam % 10 + 14}-{exam % 12 + 1:02d}-{exam % 28 + 1:02d}"
        write_exam(here / "data/medical_data_2" / date / f"{exam:08d}", exam, slices)
        labels = ("", "") if exam < unlabelled else ("5：正常", f"{exam % 6 + 1}")
        rows.append([f"{exam:08d}", date, *labels, "", ""])
    (here / "metadata").mkdir()
    columns = ["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练", "影像所见", "检查结论"]
    pd.DataFrame(rows, columns=columns).to_excel(here / "metadata/labels.xlsx", sheet_name="影像学检查", index=False)


def find(base: Path) -> None:
    """List all files with `find`."""
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["find", base, "-type", "f", "-printf", "%p %s %T@\\n"], check=True, stdout=nowhere)


def listed(base: Path) -> None:
    """List the files of all exams."""
    for exam in find_exams(base).exams:
        list_exam(base, exam.relpath)


def build_index(here: Path, *words: str, tree: Path = ROOT) -> str:
    """Run the command build_index of a checkout; return its output."""
    command = [sys.executable, tree / "scripts/build_index.py", *words]
    return subprocess.run(command, cwd=here, env=environment(tree), check=True, capture_output=True, text=True).stdout


def against(commit: str, here: Path, pairs: int) -> list[dict[str, object]]:
    """Return how many times as fast as another commit this build reads all headers of a tree for its index."""
    with checkout(commit) as tree:
        ours, before = (functools.partial(build_index, here, "--rescan", tree=one) for one in (ROOT, tree))
        return [figure("speedup_vs_before.index", ratios(before, ours, pairs), "ratio", "higher")]


def check_counts(output: str, expected: dict[str, int]) -> None:
    """Raise CheckFailed unless the output reports these counts."""
    for what, number in expected.items():
        found = re.search(rf"^ *(\d+) +{what}$", output, re.MULTILINE)
        if found is None or int(found[1]) != number:
            raise CheckFailed(f"build_index: got {found and found[1]} {what}, expected {number}")
    cli.say("counts: " + ", ".join(f"{number} {what}" for what, number in expected.items()))


def by_us(paths: list[Path]) -> None:
    """Read the headers as the index does, folder by folder."""
    for _, folder in itertools.groupby(paths, key=lambda path: path.parent):
        reader = HeaderReader()
        for path in folder:
            reader.read(path)


def by_pydicom(paths: list[Path]) -> None:
    """Read the same attributes with plain pydicom."""
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=USED)
        for name in USED:
            dataset.get(name)


def ratios(one: Callable[[], object], other: Callable[[], object], pairs: int) -> list[float]:
    """Return the time of `one` over that of `other`, for pairs measured in turn."""
    return [a / b for a, b in in_turn(lambda: seconds(one), lambda: seconds(other), pairs)]


def measured(here: Path, exams: int, unlabelled: int, slices: int, pairs: int) -> list[dict[str, object]]:
    """Return the figures of this build on a tree. Raises CheckFailed if the index does not count what is there."""
    base = here / "data/medical_data_2"
    paths = sorted(base.rglob("SE2/*"))[:20 * slices]
    some = [exam.relpath for exam in find_exams(base).exams[:40]]
    context = multiprocessing.get_context("fork")
    default_signal = signal.signal, (signal.SIGTERM, signal.SIG_DFL)       # workers end on SIGTERM
    with context.Pool(1, *default_signal) as one, context.Pool(2, *default_signal) as two:
        found = [
            figure("headers_vs_pydicom", ratios(functools.partial(by_pydicom, paths), functools.partial(by_us, paths), pairs),
                   "ratio", "higher"),
            figure("scaling_2", [scaling(functools.partial(scan_exam, base), some, one, two) for _ in range(pairs)], "ratio",
                   "higher"),
            figure("scan_vs_find", ratios(functools.partial(listed, base), functools.partial(find, base), pairs), "ratio",
                   "lower"),
        ]
    outputs: list[str] = []
    took = seconds(lambda: outputs.append(build_index(here)))
    cli.say(f"first build_index: {took:.1f} s, {exams * (slices + SCOUTS) / took:.0f} files per second")
    check_counts(outputs[0], {"matched to a folder": exams, "unlabelled on both sides": unlabelled,
                              "usable": exams - unlabelled})
    found.append(figure("rescan_vs_find", ratios(functools.partial(build_index, here), functools.partial(find, base), pairs),
                        "ratio", "lower"))
    if outputs[0] != build_index(here):
        raise CheckFailed("build_index: the output differs when it is run again")
    return found


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller tree and fewer repeats, under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit of the project, and nothing else")
    args = parser.parse_args()
    exams, unlabelled, slices, pairs = (80, 3, 98, 3) if args.quick else (EXAMS, UNLABELLED, SLICES, 5)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        took = seconds(lambda: write_hospital(here, exams, unlabelled, slices))
        cli.say(f"{exams * (slices + SCOUTS)} files in {exams} exams, written in {took:.0f} s")
        found = against(args.against, here, 2) if args.against else measured(here, exams, unlabelled, slices, pairs)
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

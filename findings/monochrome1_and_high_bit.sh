#!/usr/bin/env bash
# SimpleITK 2.5.2, dcm2niix v1.0.20260724 (PyPI dcm2niix 1.0.20260724), pydicom 3.0.2, nibabel 5.4.2, numpy 2.3.5; Python 3.11 or
# newer.
#
# One and the same CT slice, HU of -1000 to 1000, written in three valid ways:
#   plain        MONOCHROME2, BitsStored 12, HighBit 11
#   monochrome1  the same stored values with PhotometricInterpretation MONOCHROME1: the lowest value is to be displayed white
#                (PS3.3 C.7.6.3.1.2). The Modality LUT applies to stored values all the same, so the HU are those of `plain`.
#   high_bit     the same values in the upper 12 bits of the word, HighBit 15, as DICOM allowed before 2011 (PS3.5 8.1.1)
# Expected: three times the same HU, or an error.
# Seen, all without an error:
#   high_bit     SimpleITK, dcm2niix and pydicom (default decoding) keep the lower 12 bits of the word: the upper bits of the value
#                are lost, and HU of -1008 to 3056 are left
#   monochrome1  SimpleITK inverts the stored values before it rescales them, so that air is denser than bone (2047 - HU here);
#                dcm2niix and pydicom are right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q SimpleITK==2.5.2 dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.3.5
cd "$work"
cat > try.py <<'PY'
import subprocess
import sys
from pathlib import Path

import dcm2niix
import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

HU = np.linspace(-1000, 1000, 32 * 32).round().astype(int).reshape(32, 32)


def write(folder, *, interpretation="MONOCHROME2", high=11):
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(3):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.Modality, ds.Manufacturer, ds.ImageType = "CT", "SIEMENS", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientID, ds.PatientName, ds.StudyDate, ds.StudyTime = "1", "A^B", "20080101", "101010"
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -10, 0.5 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.Rows, ds.Columns = [0.5, 0.5], 0.5, 32, 32
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, interpretation, 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, high
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.PixelData = ((HU + 1024) << (high - 11)).astype(np.uint16).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)


def by_simpleitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sorted(str(path) for path in folder.iterdir()))
    return sitk.GetArrayFromImage(reader.Execute())[0]


def by_dcm2niix(folder):
    made = folder.with_name(f"{folder.name}_made")
    made.mkdir()
    subprocess.run([dcm2niix.bin, "-b", "n", "-z", "n", "-f", "volume", "-o", made, folder], capture_output=True, check=True)
    return np.asarray(nibabel.load(made / "volume.nii").get_fdata())[:, ::-1, 0].T          # NIfTI counts rows from the back


def by_pydicom(folder):
    ds = pydicom.dcmread(folder / "0.dcm")
    return apply_modality_lut(ds.pixel_array, ds)


write(Path("plain"))
write(Path("monochrome1"), interpretation="MONOCHROME1")
write(Path("high_bit"), high=15)
right = {}
for name, read in (("SimpleITK", by_simpleitk), ("dcm2niix", by_dcm2niix), ("pydicom", by_pydicom)):
    for kind in ("plain", "monochrome1", "high_bit"):
        hu = read(Path(kind))
        right[name, kind] = bool(np.array_equal(hu, HU))
        print(f"{name:10s} {kind:12s} {'right' if right[name, kind] else 'WRONG'}: {hu.min():.0f} to {hu.max():.0f} HU, "
              f"first {hu[0, 0]:.0f} (written -1000), last {hu[-1, -1]:.0f} (written 1000)")
wrong = {where for where, is_right in right.items() if not is_right}
print(sorted(wrong))
as_written = wrong == {("SimpleITK", "monochrome1"), *((name, "high_bit") for name in ("SimpleITK", "dcm2niix", "pydicom"))}
print("as described" if as_written else "CHANGED")
sys.exit(not as_written)
PY
"$work/venv/bin/python" try.py

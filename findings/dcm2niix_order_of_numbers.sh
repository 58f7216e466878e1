#!/usr/bin/env bash
# dcm2niix v1.0.20260724 (PyPI dcm2niix 1.0.20260724), pydicom 3.0.2, nibabel 5.4.2, numpy 2.3.5; Python 3.11 or newer.
#
# A CT series of 24 regular axial slices, whose InstanceNumbers do not run with the position: they are a permutation, as archives
# write them that number images by arrival. InstanceNumber (0020,0013) carries no geometry; ImagePositionPatient does.
# Expected: a volume of 24 slices, or an error.
# Seen: "Slices skipped: image position not sequential", a volume of a few slices (here 2), and exit status 0. With the same
# positions numbered in order, all 24 slices are converted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.3.5
cd "$work"
cat > try.py <<'PY'
import random
import re
import subprocess
import sys
from pathlib import Path

import dcm2niix
import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES = 24


def write(folder, numbers):
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k, number in enumerate(numbers):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.Modality, ds.Manufacturer, ds.ImageType = "CT", "SIEMENS", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientID, ds.PatientName, ds.StudyDate, ds.StudyTime = "1", "A^B", "20240101", "101010"
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, number
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -10, 0.5 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.Rows, ds.Columns = [0.5, 0.5], 0.5, 32, 32
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
        ds.PixelData = np.full((32, 32), k, np.int16).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


def converted(folder):
    made = folder.with_name(folder.name + "_made")
    made.mkdir()
    done = subprocess.run([dcm2niix.bin, "-b", "n", "-z", "n", "-f", "volume", "-o", made, folder], capture_output=True, text=True)
    print(re.sub(r"\S*/", "", done.stdout))
    slices = {path.name: nibabel.load(path).shape[2] for path in made.glob("*.nii")}
    print(f"{folder.name}: exit status {done.returncode}, slices {slices}\n")
    return done.returncode, sum(slices.values())


inorder, arrival = list(range(1, SLICES + 1)), list(range(1, SLICES + 1))
random.Random(0).shuffle(arrival)
write(Path("in_order"), inorder)
write(Path("by_arrival"), arrival)
whole, part = converted(Path("in_order")), converted(Path("by_arrival"))
as_written = whole == (0, SLICES) and part[0] == 0 and part[1] < SLICES
print("as described" if as_written else "CHANGED")
sys.exit(not as_written)
PY
"$work/venv/bin/python" try.py

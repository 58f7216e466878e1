"""Small CT series written for a test: any HU, any orientation, any stored-value form. Independent of the phantom's writer."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid


@dataclass(frozen=True, kw_only=True)
class Form:
    """How HU become stored values."""

    bits: int = 16
    signed: bool = True
    intercept: float = 0.0
    slope: float = 1.0
    padding: int | None = None
    syntax: str = ExplicitVRLittleEndian
    more: dict[str, object] = field(default_factory=dict)
    """Further attributes, by keyword."""


PLAIN = Form()


def write_volume(
    folder: Path, stored: np.ndarray, affine: np.ndarray, form: Form = PLAIN, *, reverse: bool = False
) -> list[Path]:
    """One file a slice, in the order of k or the reverse.

    stored (K, rows, columns): stored values, written as they are; affine (4, 4): (k, row, column, 1) to LPS mm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row_step, column_step = affine[:3, 1], affine[:3, 2]
    spacing = np.linalg.norm(row_step), np.linalg.norm(column_step)
    series, study, frame = (generate_uid(entropy_srcs=[ascii(folder), word]) for word in ("series", "study", "frame"))
    files = []
    for number, k in enumerate(reversed(range(len(stored))) if reverse else range(len(stored)), start=1):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[ascii(folder), str(k)])
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], number
        ds.PatientID, ds.PatientName, ds.PatientBirthDate = "PAT1", "Nobody^Test", "19700101"
        ds.Manufacturer, ds.ManufacturerModelName, ds.ConvolutionKernel = "SIEMENS", "Sensation 64", "U75u"
        ds.Rows, ds.Columns = stored.shape[1:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, form.bits, form.bits - 1
        ds.PixelRepresentation = int(form.signed)
        ds.RescaleIntercept, ds.RescaleSlope = form.intercept, form.slope
        ds.PixelSpacing = [repr(float(round(s, 8))) for s in spacing]
        ds.SliceThickness = "1"
        ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*column_step / spacing[1], *row_step / spacing[0])]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in affine[:3, 3] + k * affine[:3, 0]]
        if form.padding is not None:
            ds.add_new("PixelPaddingValue", "SS" if form.signed else "US", form.padding)
        for keyword, value in form.more.items():
            setattr(ds, keyword, value)
        ds.PixelData = stored[k].astype("<i2" if form.signed else "<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if form.syntax != ExplicitVRLittleEndian:
            ds["PixelData"].VR = "OW"
            if pydicom.uid.UID(form.syntax).is_compressed and not pydicom.uid.UID(form.syntax).is_deflated:
                ds.compress(form.syntax, generate_instance_uid=False)
            else:
                ds.file_meta.TransferSyntaxUID = form.syntax
        files.append(folder / f"IM{number:04d}")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def axial(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 0.5, 0.5)) -> np.ndarray:
    """The affine (4, 4) of an upright axial volume (k up, rows to the back, columns to the left) centred on the origin."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def write_enhanced(path: Path, stored: np.ndarray, affine: np.ndarray, *, order: Sequence[int] | None = None,
                   syntax: str = ExplicitVRLittleEndian) -> None:
    """One enhanced CT file, a frame a slice. stored (K, rows, columns): int16, HU + 1024; order: of the frames."""
    row_step, column_step = affine[:3, 1], affine[:3, 2]
    spacing = np.linalg.norm(row_step), np.linalg.norm(column_step)
    order = range(len(stored)) if order is None else order

    def group(**values: object) -> Sequence[Dataset]:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return [item]

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedCTImageStorage, generate_uid(entropy_srcs=[str(path)])
    ds.SeriesInstanceUID, ds.StudyInstanceUID = (generate_uid(entropy_srcs=[str(path), word]) for word in ("series", "study"))
    ds.Modality, ds.ImageType, ds.PatientID = "CT", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "PAT1"
    ds.PatientName, ds.PatientBirthDate, ds.Manufacturer = "Nobody^Test", "19700101", "SIEMENS"
    ds.NumberOfFrames, (ds.Rows, ds.Columns) = len(stored), stored.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[float(s) for s in spacing], SliceThickness=1.0)
    shared.PlaneOrientationSequence = group(
        ImageOrientationPatient=[float(f"{v:.8f}") for v in (*column_step / spacing[1], *row_step / spacing[0])])
    shared.CTReconstructionSequence = group(ConvolutionKernel="U75u")
    shared.PixelValueTransformationSequence = group(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = group(
            ImagePositionPatient=[float(f"{v:.6f}") for v in affine[:3, 3] + k * affine[:3, 0]])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = stored[list(order)].astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds["PixelData"].VR = "OW"
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)

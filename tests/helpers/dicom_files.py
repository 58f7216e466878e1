"""Small CT series written as DICOM: any HU, orientation and pixel encoding. Independent of the phantom's writer."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid


@dataclass(frozen=True, kw_only=True)
class SeriesFormat:
    """The pixel encoding of a series, and further attributes of its headers."""

    bits: int = 16
    """BitsStored."""

    signed: bool = True
    """Whether stored values are signed."""

    intercept: float = 0.0
    """RescaleIntercept."""

    slope: float = 1.0
    """RescaleSlope."""

    padding: int | None = None
    """PixelPaddingValue."""

    syntax: str = ExplicitVRLittleEndian
    """UID of the transfer syntax."""

    attributes: dict[str, object] = field(default_factory=dict)
    """Further attributes by keyword."""


PLAIN = SeriesFormat()


def write_volume(
    folder: Path, stored: np.ndarray, affine: np.ndarray, series_format: SeriesFormat = PLAIN, *, reverse: bool = False
) -> list[Path]:
    """Write one file per slice, in the order of k or the reverse; return the files.

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
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, series_format.bits, series_format.bits - 1
        ds.PixelRepresentation = int(series_format.signed)
        ds.RescaleIntercept, ds.RescaleSlope = series_format.intercept, series_format.slope
        ds.PixelSpacing = [repr(float(round(s, 8))) for s in spacing]
        ds.SliceThickness = "1"
        ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*column_step / spacing[1], *row_step / spacing[0])]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in affine[:3, 3] + k * affine[:3, 0]]
        if series_format.padding is not None:
            ds.add_new("PixelPaddingValue", "SS" if series_format.signed else "US", series_format.padding)
        for keyword, value in series_format.attributes.items():
            setattr(ds, keyword, value)
        ds.PixelData = stored[k].astype("<i2" if series_format.signed else "<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if series_format.syntax != ExplicitVRLittleEndian:
            ds["PixelData"].VR = "OW"
            if pydicom.uid.UID(series_format.syntax).is_compressed and not pydicom.uid.UID(series_format.syntax).is_deflated:
                ds.compress(series_format.syntax, generate_instance_uid=False)
            else:
                ds.file_meta.TransferSyntaxUID = series_format.syntax
        files.append(folder / f"IM{number:04d}")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def shorten_pixels(path: Path, by: int) -> None:
    """Remove so many bytes of the pixels of a file that stays complete in itself."""
    ds = pydicom.dcmread(path)
    is_compressed = ds.file_meta.TransferSyntaxUID.is_encapsulated
    ds.PixelData = encapsulate([get_frame(ds.PixelData, 0, number_of_frames=1)[:-by]]) if is_compressed else ds.PixelData[:-by]
    ds.save_as(path)


def head(shape: tuple[int, int, int], noise: float = 60.0, seed: int = 0) -> np.ndarray:
    """HU (K, rows, columns) of a round head: soft tissue inside a ring of bone inside air, each slice with noise of its own."""
    row, column = np.mgrid[:shape[1], :shape[2]]
    radius = np.hypot(2 * row / (shape[1] - 1) - 1, 2 * column / (shape[2] - 1) - 1)
    still = np.where(radius > 0.95, -1000, np.where(radius > 0.75, 1200, 40))
    return np.rint(still + np.random.default_rng(seed).normal(0, noise, shape)).astype(np.int64)


def axial(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 0.5, 0.5)) -> np.ndarray:
    """Return the affine (4, 4) of an axial volume (k up, rows to the back, columns to the left) centred on the origin."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def write_enhanced(path: Path, stored: np.ndarray, affine: np.ndarray, *, order: Sequence[int] | None = None,
                   syntax: str = ExplicitVRLittleEndian) -> None:
    """Write one enhanced CT file with a frame per slice.

    stored (K, rows, columns): HU + 1024, int16; order: the slices in the order of the frames.
    """
    row_step, column_step = affine[:3, 1], affine[:3, 2]
    spacing = np.linalg.norm(row_step), np.linalg.norm(column_step)
    order = range(len(stored)) if order is None else order

    def group(**values: object) -> Sequence[Dataset]:
        """Return a functional group: a sequence of one item."""
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

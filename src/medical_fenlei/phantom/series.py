"""Write a reconstructed volume as a series of CT Image Storage, one file per slice."""
import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medical_fenlei.phantom.scanner import Array, Scan
from medical_fenlei.spatial import Affine

IMPLEMENTATION_UID = generate_uid(entropy_srcs=["medical_fenlei", "phantom"])
AXIAL = ("ORIGINAL", "PRIMARY", "AXIAL")
SCOUT = ("ORIGINAL", "PRIMARY", "LOCALIZER")


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The synthetic patient named in the files."""

    patient_id: str
    """May be empty, as in some exports."""

    name: str
    birth_date: datetime.date
    sex: str
    age_years: int


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """Header attributes of a series other than geometry and pixels."""

    patient: Patient
    exam_id: str
    date: datetime.date
    number: int
    description: str
    image_type: tuple[str, ...] = AXIAL
    suffix: str = ""
    """Suffix of the file names; exports often have none."""


def write_series(folder: Path, hu: Array, affine: Affine, scan: Scan, facts: SeriesFacts, rng: np.random.Generator) -> None:
    """Write int16 HU (K, rows, columns); affine: from voxel index to patient LPS mm."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = _stored_values(hu, scan)
    order = np.arange(len(hu))
    if scan.stored_order != "forward":
        order = order[::-1] if scan.stored_order == "reverse" else rng.permutation(order)
    shared = _shared(affine, scan, facts, rows=hu.shape[1], columns=hu.shape[2])
    for number, k in enumerate(order, start=1):
        image = Dataset()
        image.update(shared)
        image.SOPInstanceUID = _uid(facts, "image", facts.number, k)
        image.InstanceNumber = number
        image.ImagePositionPatient = [f"{v:.6f}" for v in affine.apply(np.array([k, 0, 0]))]
        image.PixelData = stored[k].astype("<i2" if scan.pixel_format.signed else "<u2").tobytes()
        image["PixelData"].VR = "OW"
        _save(image, folder / f"IM{number:05d}{facts.suffix}", scan.transfer_syntax)


def _stored_values(hu: Array, scan: Scan) -> Array:
    """Stored values (K, rows, columns) of HU, with padding outside the reconstruction circle where the format has one."""
    fmt = scan.pixel_format
    stored = np.clip(np.rint((hu.astype(np.float32) - fmt.intercept) / fmt.slope), *fmt.limits).astype(np.int32)
    if fmt.padding is not None:
        r, c = (np.linspace(-1, 1, n) for n in hu.shape[1:])
        stored[:, np.hypot(r[:, None], c) > 1] = fmt.padding
    return stored


def _shared(affine: Affine, scan: Scan, facts: SeriesFacts, *, rows: int, columns: int) -> Dataset:
    """The attributes that all images of a series share."""
    patient, fmt = facts.patient, scan.pixel_format
    row_step, column_step = affine.step(1), affine.step(2)
    row_mm, column_mm = float(np.linalg.norm(row_step)), float(np.linalg.norm(column_step))
    day, time = facts.date.strftime("%Y%m%d"), "093000"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = list(facts.image_type)
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = facts.exam_id, facts.exam_id, ""
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", scan.vendor, scan.model
    ds.StudyDescription, ds.SeriesDescription = "Temporal bone (synthetic)", facts.description
    ds.PatientName, ds.PatientID = patient.name, patient.patient_id
    ds.PatientBirthDate, ds.PatientSex = patient.birth_date.strftime("%Y%m%d"), patient.sex
    ds.PatientAge = f"{patient.age_years:03d}Y"
    ds.BodyPartExamined = "HEAD"
    ds.SliceThickness = f"{scan.thickness_mm:g}"
    ds.KVP = f"{scan.kvp:g}"
    if scan.spacing_tag != "absent":
        ds.SpacingBetweenSlices = f"{scan.increment_mm * (-1 if scan.spacing_tag == 'negative' else 1):g}"
    ds.GantryDetectorTilt = f"{scan.gantry_tilt_deg:g}"
    ds.ConvolutionKernel = list(scan.kernel) if len(scan.kernel) > 1 else scan.kernel[0]
    ds.PatientPosition = scan.patient_position
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid(facts, "study"), _uid(facts, "series", facts.number)
    ds.FrameOfReferenceUID = _uid(facts, "frame")
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PositionReferenceIndicator = facts.number, 1, ""
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*column_step / column_mm, *row_step / row_mm)]
    ds.PixelSpacing = [f"{row_mm:.8f}", f"{column_mm:.8f}"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, fmt.photometric
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, fmt.bits, fmt.bits - 1, int(fmt.signed)
    if fmt.padding is not None:
        ds.add_new("PixelPaddingValue", "SS" if fmt.signed else "US", fmt.padding)
    ds.WindowCenter, ds.WindowWidth = "700", "4000"
    ds.RescaleIntercept, ds.RescaleSlope = f"{fmt.intercept:g}", f"{fmt.slope:g}"
    ds.RescaleType = "US" if facts.image_type == SCOUT else "HU"      # a projection is not in HU
    return ds


def _uid(facts: SeriesFacts, *parts: object) -> UID:
    """A UID that depends on the exam and these parts only."""
    return generate_uid(entropy_srcs=["medical_fenlei", facts.exam_id, facts.date.isoformat(), *map(str, parts)])


def _save(image: Dataset, path: Path, syntax: str) -> None:
    image.file_meta = FileMetaDataset()
    image.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if UID(syntax).is_compressed:
        image.compress(syntax, generate_instance_uid=False)
    else:
        image.file_meta.TransferSyntaxUID = UID(syntax)
    image.save_as(path, enforce_file_format=True)

"""The synthetic hospital: DICOM tree, label sheet and ground truth on disk; or ear volumes only, without files."""
import contextlib
import functools
import io
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from medical_fenlei import settings
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic, write_json
from medical_fenlei.json_files import JsonFile
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.anatomy import Person, Pose, landmarks, sample_pose
from medical_fenlei.phantom.disease import EarChange, sample_change, sample_one_mass
from medical_fenlei.phantom.hard import apart, milder
from medical_fenlei.phantom.head import LESION_BIT, DrawnHead, draw_head
from medical_fenlei.phantom.population import Exam, sample_population
from medical_fenlei.phantom.scanner import Array, Scan, acquire, sample_scan
from medical_fenlei.phantom.series import SCOUT, SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, SIDES, UNLABELLED, Side

NOTE = "synthetic, not clinical evidence"
WORKSHEET = "影像学检查"
SHEET_COLUMNS = ("检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练", "影像所见", "检查结论")
WRAPPER_SHARE, SUFFIX_SHARE, SCOUT_SHARE, SOFT_SHARE = 0.1, 0.3, 0.7, 0.3
"""Shares of the exams below a wrapper folder, with the suffix `.dcm`, with a scout, with a thick soft-tissue series."""


class _Hospital(TypedDict):
    settings: dict[str, Any]


class _Truth(TypedDict):
    exam_id: str
    codes: dict[str, int]
    kinds: dict[str, str]
    lesion_voxels: dict[str, int]
    landmarks_lps: dict[str, list[float]]


_HOSPITAL = JsonFile[Any]("settings of a synthetic hospital", _Hospital, "choose another folder or remove it")
_TRUTH = JsonFile[Any]("truth of an exam", _Truth, "it is drawn again")


@dataclass(frozen=True)
class Acquisition:
    """The acquisition of one exam: scan, pose, diseases and geometry."""

    person: Person
    scan: Scan
    pose: Pose
    changes: dict[Side, EarChange]
    landmarks_lps: dict[str, list[float]]
    """The `anatomy.landmarks` in patient mm."""

    affine: Affine
    """From voxel index of the series to patient LPS mm."""

    def draw(self, affine_lps: Affine, shape: tuple[int, int, int]) -> DrawnHead:
        """Draw the patient on a grid of `shape`; affine_lps: from its voxel index to patient LPS mm."""
        return draw_head(self.person, self.changes, self.pose, affine_lps, shape, self.scan.gravity_lps)


def sample_acquisition(exam: Exam, spec: HospitalSpec) -> tuple[Acquisition, np.random.Generator]:
    """Sample the acquisition of an exam; also return the generator for its noise."""
    rng = np.random.default_rng([spec.seed, 3, exam.number])
    scan, pose = sample_scan(rng, spec.matrix, spec.slices), sample_pose(rng)
    sample = sample_one_mass if spec.disease == "one_mass" else sample_change
    changes = {side: sample(exam.codes[side], rng) for side in SIDES}
    if spec.difficulty == "hard":
        scan, changes = apart(scan, rng), {side: milder(change, rng) for side, change in changes.items()}
    landmarks_lps = landmarks(exam.person, pose)
    height = float(np.mean([landmarks_lps[f"tympanum_{side}"][2] for side in SIDES])) + float(rng.normal(0, 2))
    table = np.array([0.0, -8.0, height])                        # the head is off the centre of the field of view
    return Acquisition(exam.person, scan, pose, changes, landmarks_lps, scan.affine(table)), rng


def write_hospital(out_dir: Path, spec: HospitalSpec, *, workers: int) -> dict[str, int]:
    """Write `data/medical_data_2/`, `metadata/labels.xlsx` and `truth/` below out_dir; return counts.

    An interrupted run is continued. Raises UserError if the folder holds another hospital or an exam cannot be written.
    """
    wanted, note = settings.to_json(spec), out_dir / "truth" / "hospital.json"
    if note.is_file() and (found := _HOSPITAL.read(note)["settings"]) != wanted:
        raise UserError(f"--out-dir {out_dir}: holds another hospital ({found}); choose another folder or remove it")
    write_json(note, {"note": NOTE, "settings": wanted})
    exams = sample_population(spec.num_exams, spec.seed, spec.disease, spec.difficulty)
    rows: list[dict[str, Any]] = []
    for outcome in map_items(functools.partial(_write_exam, out_dir, spec), exams, workers=workers, label="exams"):
        if outcome.value is None:
            raise UserError(f"--out-dir {out_dir}: exam {outcome.item.exam_id} could not be written ({outcome.detail})")
        rows += outcome.value
    _write_sheet(out_dir / "metadata" / "labels.xlsx", exams, spec.seed)
    with atomic(out_dir / "truth" / "truth.csv", "w") as file:
        pd.DataFrame(rows).to_csv(file, index=False)
    codes = [row["code"] for row in rows]
    return {"exams": len(exams), "patients": len({e.patient.name for e in exams}),
            "ears without disease": codes.count(NORMAL), "ears with code 4": codes.count(4)}


def _write_exam(out_dir: Path, spec: HospitalSpec, exam: Exam) -> list[dict[str, Any]]:
    """Write one exam and then its truth file, which marks it as complete. Return its rows of truth.csv."""
    truth_file = out_dir / "truth" / f"{exam.exam_id}.json"
    with contextlib.suppress(FileNotFoundError, UserError):       # one that is damaged is drawn again
        return _truth_rows(_TRUTH.read(truth_file))
    acquisition, rng = sample_acquisition(exam, spec)
    head = acquisition.draw(acquisition.affine, acquisition.scan.shape)
    projection = head.hu.mean(axis=1)
    hu = acquire(head.hu, acquisition.scan, rng)

    wrapped, ending, with_scout, with_soft = rng.random(4) < (WRAPPER_SHARE, SUFFIX_SHARE, SCOUT_SHARE, SOFT_SHARE)
    base = out_dir / "data" / "medical_data_2"
    parent = base / "export_2" if wrapped else base
    folder = parent / exam.date.isoformat() / exam.exam_id
    facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="Temporal bone, bone",
                        suffix=".dcm" if ending else "")
    write_series(folder / "SE000002", hu, acquisition.affine, acquisition.scan, facts, rng)
    if with_scout:
        scout = replace(facts, number=1, description="Scout", image_type=SCOUT)
        _write_scout(folder / "SE000001", projection, acquisition, scout, rng)
    if with_soft:
        _write_soft(folder / "SE000003", acquisition, replace(facts, number=3, description="Temporal bone, soft"), rng)
    if exam.other_date:
        other = parent / exam.other_date.isoformat() / exam.exam_id / "SE000003"
        _write_soft(other, acquisition, replace(facts, number=3, date=exam.other_date, description="Head, soft"), rng)

    lesion_file = f"{exam.exam_id}_lesion.npz"
    with atomic(out_dir / "truth" / lesion_file) as file:
        np.savez_compressed(file, lesion=head.lesion, affine_lps=acquisition.affine.matrix)
    truth = {
        "note": NOTE, "exam_id": exam.exam_id, "series_relpath": (folder / "SE000002").relative_to(base).as_posix(),
        "codes": exam.codes, "kinds": {side: change.kind for side, change in acquisition.changes.items()},
        "landmarks_lps": acquisition.landmarks_lps, "lesion_file": lesion_file, "lesion_bits": LESION_BIT,
        "lesion_voxels": {side: int(((head.lesion & bit) > 0).sum()) for side, bit in LESION_BIT.items()},
        "person": {"age_years": exam.person.age_years, "sex": exam.person.sex, "aeration": {
            side: round(exam.person.ears[side].aeration, 3) for side in SIDES}},
        "pose": vars(acquisition.pose),
    }
    write_json(truth_file, truth)
    return _truth_rows(truth)


def _truth_rows(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of truth.csv, one per ear, from the truth of an exam."""
    return [{
        "exam_id": truth["exam_id"], "side": str(side), "code": truth["codes"][side], "kind": truth["kinds"][side],
        "lesion_voxels": truth["lesion_voxels"][side],
        **{f"{mark}_{axis}_mm": value for mark in ("tympanum", "mastoid")
           for axis, value in zip("xyz", truth["landmarks_lps"][f"{mark}_{side}"], strict=True)},
    } for side in SIDES]


def _write_scout(
    folder: Path, projection: Array, acquisition: Acquisition, facts: SeriesFacts, rng: np.random.Generator
) -> None:
    """Write a scout, one frontal image whose rows run down the patient; projection (slices, columns): mean HU along y."""
    series, z_step = acquisition.affine, acquisition.affine.step(0)[2]
    upward = z_step > 0
    down = np.array([0.0, 0.0, -abs(z_step)])                    # perpendicular to the columns, with any gantry tilt
    top = [acquisition.scan.n_slices - 1 if upward else 0, (acquisition.scan.matrix - 1) / 2, 0]
    affine = Affine.from_steps([series.step(1), down, series.step(2)], series.apply(top))
    hu = np.rint(projection[::-1] if upward else projection).astype(np.int16)[None]
    scan = replace(acquisition.scan, stored_order="forward", gantry_tilt_deg=0.0, spacing_tag="absent")
    write_series(folder, hu, affine, scan, facts, rng)


def _write_soft(folder: Path, acquisition: Acquisition, facts: SeriesFacts, rng: np.random.Generator) -> None:
    """Write a thick series with a smooth kernel of the same part of the head."""
    scan = replace(acquisition.scan, kernel=("H31s",), n_slices=9, increment_mm=5.0, thickness_mm=5.0, blur_mm=0.8,
                   noise_hu=8.0, noise_texture=0.3, gantry_tilt_deg=0.0)
    affine = scan.affine(acquisition.affine.centre(acquisition.scan.shape))
    write_series(folder, acquire(acquisition.draw(affine, scan.shape).hu, scan, rng), affine, scan, facts, rng)


def _write_sheet(path: Path, exams: list[Exam], seed: int) -> None:
    """Write the label sheet, with two rows of exams that do not exist; the same bytes whenever it is written."""
    rng = np.random.default_rng([seed, 4])

    def cell(code: int) -> str:
        return "" if code == UNLABELLED else f"{code}{rng.choice(['：', ':'])}{DIAGNOSES[code].chinese}"

    rows = [[e.exam_id, f"{e.label_date} 09:30:00", *(cell(e.labels[side]) for side in SIDES), "合成数据", "非临床证据"]
            for e in exams if e.labels is not None]
    rows += [[f"9000000{n}", "2020-01-01 09:30:00", cell(5), cell(1), "合成数据", ""] for n in (1, 2)]      # no such exams
    written = io.BytesIO()
    with pd.ExcelWriter(written, engine="openpyxl") as book:
        pd.DataFrame(rows, columns=SHEET_COLUMNS).to_excel(book, sheet_name=WORKSHEET, index=False)
        pd.DataFrame({"说明": [NOTE]}).to_excel(book, sheet_name="说明", index=False)
    with atomic(path) as file:
        _copy_without_time(written, file)


def _copy_without_time(workbook: io.BytesIO, to: IO[bytes]) -> None:
    """Copy a workbook with one fixed time in place of those at which it and its parts were written."""
    with zipfile.ZipFile(workbook) as parts, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in parts.namelist():
            content = parts.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2020-01-01T00:00:00Z", content)
            copy.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def draw_ears(exam: Exam, spec: HospitalSpec, *, num_slices: int, image_size: int, crop_mm: float) -> dict[Side, Array]:
    """Draw both ears of an exam on the grid of a cached ear, without files: int16 HU (K, H, W), column 0 lateral.

    The square is centred a few millimetres off the tympanic cavity, as by a localizer; the slices cover the series.
    """
    acquisition, rng = sample_acquisition(exam, spec)
    pixel = crop_mm / image_size
    extent = (spec.slices - 1) * acquisition.scan.increment_mm
    height = acquisition.affine.centre(acquisition.scan.shape)[2]
    ears = {}
    for side in SIDES:
        centre = np.array(acquisition.landmarks_lps[f"tympanum_{side}"]) + np.append(rng.normal(0, 2.0, 2), 0.0)
        steps = [[0, 0, extent / (num_slices - 1)], [0, pixel, 0], [-side.sign * pixel, 0, 0]]
        shape = (num_slices, image_size, image_size)
        affine = Affine.centred(steps, shape, [*centre[:2], height])
        ears[side] = acquire(acquisition.draw(affine, shape).hu, acquisition.scan, rng, pixel_mm=pixel)
    return ears

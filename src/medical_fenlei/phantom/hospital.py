"""The whole synthetic hospital: DICOM tree, label sheet and truth on disk; or ear volumes alone, without files."""
import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd

from medical_fenlei import settings
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic, write_json
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.anatomy import Pose, draw_pose, landmarks
from medical_fenlei.phantom.disease import EarChange, draw_change, draw_one_mass
from medical_fenlei.phantom.head import LESION_BIT, draw_head
from medical_fenlei.phantom.population import Exam, draw_population
from medical_fenlei.phantom.scanner import Array, Scan, acquire, draw_scan
from medical_fenlei.phantom.series import SCOUT, SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, SIDES, UNLABELLED, Side

NOTE = "synthetic, not clinical evidence"
WORKSHEET = "影像学检查"
SHEET_COLUMNS = ("检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练", "影像所见", "检查结论")
WRAPPER_SHARE, SUFFIX_SHARE, SCOUT_SHARE, SOFT_SHARE = 0.1, 0.3, 0.7, 0.3
"""Of the exams: below a wrapper folder, with `.dcm`, with a scout, with a thick soft-tissue series."""


@dataclass(frozen=True)
class Examination:
    """One exam as the scanner meets it."""

    scan: Scan
    pose: Pose
    changes: dict[Side, EarChange]
    marks: dict[str, list[float]]
    """Landmarks, patient mm."""

    affine: Array
    """(4, 4): voxel (k, row, column, 1) of the series to LPS mm."""


def examine(exam: Exam, spec: HospitalSpec) -> tuple[Examination, np.random.Generator]:
    """What is drawn for this exam, and the generator that draws its noise."""
    rng = np.random.default_rng([spec.seed, 3, exam.number])
    scan, pose = draw_scan(rng, spec.matrix, spec.slices), draw_pose(rng)
    draw = draw_one_mass if spec.disease == "one_mass" else draw_change
    changes = {side: draw(exam.codes[side], rng) for side in SIDES}
    marks = landmarks(exam.person, pose)
    height = float(np.mean([marks[f"tympanum_{side}"][2] for side in SIDES])) + float(rng.normal(0, 2))
    table = np.array([0.0, -8.0, height])                        # the head lies off the middle of the field of view
    return Examination(scan, pose, changes, marks, scan.affine(table)), rng


def write_hospital(out_dir: Path, spec: HospitalSpec, *, workers: int) -> dict[str, int]:
    """Write `data/medical_data_2/`, `metadata/labels.xlsx` and `truth/` below out_dir; returns counts.

    Goes on where an interrupted run stopped. Raises UserError if the folder holds another hospital or cannot be written.
    """
    wanted, note = settings.to_json(spec), out_dir / "truth" / "hospital.json"
    if note.is_file() and (there := json.loads(note.read_text(encoding="utf-8"))["settings"]) != wanted:
        raise UserError(f"--out-dir {out_dir}: holds another hospital ({there}); name another folder or remove it")
    write_json(note, {"note": NOTE, "settings": wanted})
    exams = draw_population(spec.num_exams, spec.seed, spec.disease)
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
    """Write one exam and its truth, the truth last: an exam that has it is whole. Returns its rows of truth.csv."""
    truth_file = out_dir / "truth" / f"{exam.exam_id}.json"
    if truth_file.is_file():
        return _truth_rows(json.loads(truth_file.read_text(encoding="utf-8")))
    seen, rng = examine(exam, spec)
    drawing = draw_head(exam.person, seen.changes, seen.pose, seen.affine, seen.scan.shape, seen.scan.gravity_lps)
    lesion = drawing.lesion
    scout = drawing.hu.mean(axis=1)
    hu = acquire(drawing.hu, seen.scan, rng)

    wrapped, ending, with_scout, with_soft = rng.random(4) < (WRAPPER_SHARE, SUFFIX_SHARE, SCOUT_SHARE, SOFT_SHARE)
    base = out_dir / "data" / "medical_data_2"
    parent = base / "export_2" if wrapped else base
    folder = parent / exam.date.isoformat() / exam.exam_id
    facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="Temporal bone, bone",
                        suffix=".dcm" if ending else "")
    write_series(folder / "SE000002", hu, seen.affine, seen.scan, facts, rng)
    if with_scout:
        _write_scout(folder / "SE000001", scout, seen, replace(facts, number=1, description="Scout", image_type=SCOUT), rng)
    if with_soft:
        _write_soft(folder / "SE000003", exam, seen, replace(facts, number=3, description="Temporal bone, soft"), rng)
    if exam.other_date:
        other = parent / exam.other_date.isoformat() / exam.exam_id / "SE000003"
        _write_soft(other, exam, seen, replace(facts, number=3, date=exam.other_date, description="Head, soft"), rng)

    lesion_file = f"{exam.exam_id}_lesion.npz"
    with atomic(out_dir / "truth" / lesion_file) as file:
        np.savez_compressed(file, lesion=lesion, affine_lps=seen.affine)
    truth = {
        "note": NOTE, "exam_id": exam.exam_id, "series_relpath": (folder / "SE000002").relative_to(base).as_posix(),
        "codes": exam.codes, "kinds": {side: change.kind for side, change in seen.changes.items()}, "landmarks_lps": seen.marks,
        "lesion_file": lesion_file, "lesion_bits": LESION_BIT,
        "lesion_voxels": {side: int(((lesion & bit) > 0).sum()) for side, bit in LESION_BIT.items()},
        "person": {"age_years": exam.person.age_years, "sex": exam.person.sex, "aeration": {
            side: round(exam.person.ears[side].aeration, 3) for side in SIDES}},
        "pose": vars(seen.pose),
    }
    write_json(truth_file, truth)
    return _truth_rows(truth)


def _truth_rows(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return [{
        "exam_id": truth["exam_id"], "side": str(side), "code": truth["codes"][side], "kind": truth["kinds"][side],
        "lesion_voxels": truth["lesion_voxels"][side],
        **{f"{mark}_{axis}_mm": value for mark in ("tympanum", "mastoid")
           for axis, value in zip("xyz", truth["landmarks_lps"][f"{mark}_{side}"], strict=True)},
    } for side in SIDES]


def _write_scout(folder: Path, projection: Array, seen: Examination, facts: SeriesFacts, rng: np.random.Generator) -> None:
    """One frontal image, (slices, columns) seen from the front: rows run down the patient."""
    upward = seen.affine[2, 0] > 0
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 2] = seen.affine[:3, 1], seen.affine[:3, 2]
    down = np.array([0.0, 0.0, -abs(seen.affine[2, 0])])         # across the columns, whatever the gantry's tilt
    affine[:3, 1] = down
    middle = (seen.scan.matrix - 1) / 2
    top = seen.affine @ [seen.scan.n_slices - 1 if upward else 0, middle, 0, 1]
    affine[:3, 3] = top[:3]
    hu = np.rint(projection[::-1] if upward else projection).astype(np.int16)[None]
    write_series(folder, hu, affine, replace(seen.scan, stored_order="forward", gantry_tilt_deg=0.0, spacing_tag="absent"),
                 facts, rng)


def _write_soft(folder: Path, exam: Exam, seen: Examination, facts: SeriesFacts, rng: np.random.Generator) -> None:
    """A thick series with a smooth kernel over the same part of the head."""
    scan = replace(seen.scan, kernel=("H31s",), n_slices=9, increment_mm=5.0, thickness_mm=5.0, blur_mm=0.8, noise_hu=8.0,
                   noise_texture=0.3, gantry_tilt_deg=0.0)
    middle = (np.array(seen.scan.shape) - 1) / 2
    affine = scan.affine((seen.affine @ [*middle, 1])[:3])
    drawing = draw_head(exam.person, seen.changes, seen.pose, affine, scan.shape, scan.gravity_lps)
    write_series(folder, acquire(drawing.hu, scan, rng), affine, scan, facts, rng)


def _write_sheet(path: Path, exams: list[Exam], seed: int) -> None:
    rng = np.random.default_rng([seed, 4])

    def cell(code: int) -> str:
        return "" if code == UNLABELLED else f"{code}{rng.choice(['：', ':'])}{DIAGNOSES[code].chinese}"

    rows = [[e.exam_id, f"{e.label_date} 09:30:00", *(cell(e.labels[side]) for side in SIDES), "合成数据", "非临床证据"]
            for e in exams if e.labels is not None]
    rows += [[f"9000000{n}", "2020-01-01 09:30:00", cell(5), cell(1), "合成数据", ""] for n in (1, 2)]      # not on disk
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file, pd.ExcelWriter(cast(BinaryIO, file), engine="openpyxl") as book:
        pd.DataFrame(rows, columns=SHEET_COLUMNS).to_excel(book, sheet_name=WORKSHEET, index=False)
        pd.DataFrame({"说明": [NOTE]}).to_excel(book, sheet_name="说明", index=False)


def draw_ears(exam: Exam, spec: HospitalSpec, *, num_slices: int, image_size: int, crop_mm: float) -> dict[Side, Array]:
    """Both ears of an exam, drawn straight onto the grid of a cached ear: int16 HU (K, H, W), column 0 lateral.

    The square is centred some millimetres off the tympanic cavity, as a finder would; slices spread over the series.
    """
    seen, rng = examine(exam, spec)
    pixel = crop_mm / image_size
    extent = (spec.slices - 1) * seen.scan.increment_mm
    height = (seen.affine @ [*((np.array(seen.scan.shape) - 1) / 2), 1])[2]
    ears = {}
    for side in SIDES:
        centre = np.array(seen.marks[f"tympanum_{side}"]) + np.append(rng.normal(0, 2.0, 2), 0.0)
        affine = np.eye(4)
        affine[:3, :3] = np.array([[0, 0, -side.sign * pixel], [0, pixel, 0], [extent / (num_slices - 1), 0, 0]])
        shape = (num_slices, image_size, image_size)
        affine[:3, 3] = [*centre[:2], height] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        drawing = draw_head(exam.person, seen.changes, seen.pose, affine, shape, seen.scan.gravity_lps)
        ears[side] = acquire(drawing.hu, seen.scan, rng, pixel_mm=pixel)
    return ears

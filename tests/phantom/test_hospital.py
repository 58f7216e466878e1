"""The synthetic hospital on disk is conformant DICOM: independent tools read the same HU in the same places."""
import datetime
import json
import shutil
import subprocess

import dcm2niix
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_sheet import read_label_sheet
from medical_fenlei.phantom.anatomy import landmarks, sample_person, sample_pose
from medical_fenlei.phantom.disease import sample_change
from medical_fenlei.phantom.head import LESION_BIT, draw_head
from medical_fenlei.phantom.hospital import draw_ears, write_hospital
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.scanner import CLASSIC, EXTENDED, INVERTED, PADDED, SIGNED, Scan
from medical_fenlei.phantom.series import Patient, SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR, NORMAL, SIDES, UNLABELLED

SPEC = HospitalSpec(num_exams=12, slices=24, seed=60)            # with this seed every pixel format and syntax occurs
SMALL = HospitalSpec(num_exams=5, slices=8, seed=3)
CAN_BE_EMPTY = {"malformation"}
"""Kinds that change bone or canal and may fill no air space."""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    write_hospital(folder, SPEC, workers=1)
    return folder


@pytest.fixture(scope="module")
def truths(hospital):
    return [json.loads(f.read_text(encoding="utf-8")) for f in sorted((hospital / "truth").glob("[0-9]*.json"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_hospital(folder, SMALL, workers=1)
    return folder


def series_folders(folder):
    return sorted(f for f in (folder / "data").rglob("SE*") if f.is_dir())


def first_and_last(folder):
    files = [sorted(series.iterdir()) for series in series_folders(folder)]
    return [file for names in files for file in {names[0], names[-1]}]


def main_series(folder, truth):
    return folder / "data" / "medical_data_2" / truth["series_relpath"]


def content(folder):
    """Every byte of the images, the label sheet and the truth."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for part in ("data", "metadata", "truth")
            for f in sorted((folder / part).rglob("*")) if f.is_file()}


def coarse(volume):
    """Means over 4 by 4 pixels, since the two squares lie a few millimetres apart."""
    return volume.reshape(len(volume), 8, 4, 8, 4).mean(axis=(2, 4)).ravel()


def pixels(folder):
    files = [f for f in (folder / "data").rglob("IM*") if f.is_file()]
    return {f.relative_to(folder / "data").as_posix(): pydicom.dcmread(f).PixelData for f in files}


def test_dicom3tools_finds_no_error(hospital, tool):
    validate = tool("dciodvfy")
    for file in first_and_last(hospital):
        checked = subprocess.run([validate, file], capture_output=True, text=True, errors="replace")
        said = checked.stdout + checked.stderr
        assert "CTImage" in said and "Error" not in said, f"{file}\n{said}"


def test_dcmtk_reads_every_image_as_ct_image_storage(hospital, tool):
    files = first_and_last(hospital)
    for file in files:
        read = subprocess.run([tool("dcmdump"), "+P", "0008,0016", file], capture_output=True, text=True, check=True)
        assert read.stdout.split()[2] == "=CTImageStorage"
    assert len(files) > 2 * SPEC.num_exams


def test_simpleitk_sees_the_same_hu_in_the_same_places(hospital, truths):
    seen = {"form": set(), "syntax": set(), "turned": set(), "tilted": set()}
    for truth in truths:
        folder = main_series(hospital, truth)
        facts = {f: pydicom.dcmread(f, stop_before_pixels=True) for f in folder.iterdir()}
        by_height = sorted(facts, key=lambda f: float(facts[f].ImagePositionPatient[2]))
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetForceOrthogonalDirection(False)                # a tilted gantry shears the volume
        reader.SetFileNames([str(f) for f in by_height])
        image, series, first = reader.Execute(), open_series(folder), facts[by_height[0]]

        assert image.GetSize()[::-1] == series.shape == (SPEC.slices, SPEC.matrix, SPEC.matrix)
        rng = np.random.default_rng(0)
        voxels = np.column_stack([rng.integers(0, n, 200) for n in series.shape])
        voxels[:8] = [[k, r, c] for k in (0, SPEC.slices - 1) for r in (0, 255) for c in (0, 255)]
        places = (series.affine.matrix @ np.column_stack([voxels, np.ones(200)]).T).T[:, :3]
        indices = [image.TransformPhysicalPointToIndex(p.tolist()) for p in places]
        back = [image.TransformIndexToPhysicalPoint(i) for i in indices]
        np.testing.assert_allclose(places, back, atol=2e-3)
        if first.PhotometricInterpretation == "MONOCHROME2":     # SimpleITK inverts MONOCHROME1
            middle = (SPEC.matrix - 1) / 2
            slices = [series.slice(k) for k in range(SPEC.slices)]
            for (k, r, c), index in zip(voxels, indices, strict=True):
                if np.hypot(r - middle, c - middle) < middle - 1:
                    assert slices[k][r, c] == image[index]
        seen["form"].add((first.BitsStored, first.PixelRepresentation, first.RescaleIntercept, first.PhotometricInterpretation))
        seen["syntax"].add(pydicom.dcmread(by_height[0], specific_tags=[]).file_meta.TransferSyntaxUID)
        seen["turned"].add(tuple(np.sign(np.round(first.ImageOrientationPatient, 1))))
        seen["tilted"].add(float(first.GantryDetectorTilt) != 0)
    assert {name: len(values) for name, values in seen.items()} == {"form": 5, "syntax": 4, "turned": 3, "tilted": 2}, seen


def test_dcm2niix_sees_the_same_hu_in_the_same_places(hospital, truths, tmp_path):
    compared = 0
    for number, truth in enumerate(truths):
        folder, made = main_series(hospital, truth), tmp_path / str(number)
        made.mkdir()
        said = subprocess.run([dcm2niix.bin, "-b", "n", "-z", "n", "-f", "volume", "-o", made, folder], check=True,
                              capture_output=True, text=True).stdout
        series = open_series(folder)
        if "Slices skipped" in said or series.geometry.tilt_deg > 0.01:
            continue                                             # out of order, or tilted: see docs/artifacts.md
        compared += 1
        image, rng = nibabel.load(made / "volume.nii"), np.random.default_rng(0)
        voxels = np.column_stack([rng.integers(0, n, 200) for n in series.shape])
        to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ image.affine)          # NIfTI counts to the right and the back
        index = (to_index @ np.column_stack([series.affine.apply(voxels), np.ones(200)]).T)[:3].T
        assert np.linalg.norm((index - np.rint(index)) @ image.affine[:3, :3].T, axis=1).max() < 0.01
        theirs = np.asarray(image.dataobj)[tuple(np.rint(index).astype(int).T)]
        ours = np.array([series.slice(k)[r, c] for k, r, c in voxels.tolist()])
        seen = ours != AIR                                        # padding is air to us, and a value of its own to dcm2niix
        assert seen.mean() > 0.5 and np.abs(ours - theirs)[seen].max() <= 1
    assert compared >= len(truths) // 2


@pytest.mark.parametrize("form", [CLASSIC, SIGNED, EXTENDED, PADDED, INVERTED], ids=["12", "16", "8192", "pad", "mono1"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEGLSLossless, RLELossless], ids=["implicit", "jpegls", "rle"])
def test_the_hu_that_are_written_are_the_hu_that_are_read(form, syntax, tmp_path):
    hu = np.random.default_rng(1).integers(-1024, 3072, (3, 32, 32)).astype(np.int16)
    scan = Scan(matrix=32, n_slices=3, pixel_format=form, transfer_syntax=str(syntax), stored_order="reverse")
    day = datetime.date(2020, 1, 1)
    facts = SeriesFacts(exam_id="00000001", date=day, number=2, description="",
                        patient=Patient(patient_id="", name="SYNTHETIC^NOBODY", birth_date=day, sex="F", age_years=0))
    write_series(tmp_path / "SE1", hu, scan.affine(np.zeros(3)), scan, facts, np.random.default_rng(0))
    series = open_series(tmp_path / "SE1")
    r, c = np.indices((32, 32)) - 15.5
    inside = np.hypot(r, c) < 15 if form.padding is not None else np.full((32, 32), True)
    for k in range(3):
        np.testing.assert_array_equal(series.slice(k)[inside], hu[k][inside])
        assert (series.slice(k)[np.hypot(r, c) > 16] == -1000).all() == (form.padding is not None)


def test_one_seed_draws_the_same_bytes_with_any_number_of_workers(small, tmp_path):
    write_hospital(tmp_path, SMALL, workers=2)
    assert content(tmp_path) == content(small)


def test_another_seed_draws_other_pixels(small, tmp_path):
    write_hospital(tmp_path, HospitalSpec(num_exams=4, slices=8, seed=SMALL.seed + 1), workers=1)
    assert not set(pixels(tmp_path).values()) & set(pixels(small).values())


def test_an_interrupted_generation_continues_to_the_same_bytes(small, tmp_path):
    whole = tmp_path / "hospital"
    shutil.copytree(small, whole)
    (whole / "truth" / "truth.csv").unlink()
    victim = sorted((whole / "truth").glob("[0-9]*.json"))[2]
    series = main_series(whole, json.loads(victim.read_text(encoding="utf-8")))
    victim.unlink()
    for file in sorted(series.iterdir())[3:]:
        file.unlink()
    torn = sorted(series.iterdir())[2]
    torn.write_bytes(torn.read_bytes()[:1000])
    done = [f for f in (whole / "data").rglob("IM*") if f.is_file() and victim.stem not in f.parts]
    written = [f.stat().st_mtime_ns for f in done]
    assert content(whole) != content(small)
    write_hospital(whole, SMALL, workers=1)
    assert content(whole) == content(small)
    assert [f.stat().st_mtime_ns for f in done] == written       # complete exams are not drawn again


def test_a_folder_that_holds_another_hospital_is_refused_and_left_alone(small):
    before = content(small)
    with pytest.raises(UserError, match="another hospital"):
        write_hospital(small, HospitalSpec(num_exams=5, slices=8, seed=4), workers=1)
    assert content(small) == before


def test_without_the_pose_left_lies_left_of_right(truths):
    for truth in truths:
        pose, marks = truth["pose"], {k: np.array(v) for k, v in truth["landmarks_lps"].items()}
        turn = Rotation.from_euler("xyz", [pose["pitch_deg"], pose["roll_deg"], pose["yaw_deg"]], degrees=True)
        for mark in ("tympanum", "mastoid"):
            apart = turn.inv().apply(marks[f"{mark}_left"] - marks[f"{mark}_right"])
            assert apart[0] > 55 and np.abs(apart[1:]).max() < 8
        np.testing.assert_allclose(turn.apply([1, 0, 0]), marks["midsagittal_normal"], atol=1e-5)
        for side in SIDES:
            off = (marks[f"tympanum_{side}"] - marks["midsagittal_point"]) @ marks["midsagittal_normal"]
            assert 27 < off * side.sign < 50


def test_lesion_bits_lie_on_the_side_whose_code_is_not_normal(hospital, truths):
    for truth in truths:
        with np.load(hospital / "truth" / truth["lesion_file"]) as file:
            lesion, affine = file["lesion"], file["affine_lps"]
        point, normal = (np.array(truth["landmarks_lps"][f"midsagittal_{part}"]) for part in ("point", "normal"))
        for side in SIDES:
            voxels = np.argwhere(lesion & truth["lesion_bits"][side])
            assert len(voxels) == truth["lesion_voxels"][side]
            if truth["codes"][side] == NORMAL:
                assert len(voxels) == 0
            elif truth["kinds"][side] not in CAN_BE_EMPTY:
                assert len(voxels) > 0
            places = voxels @ affine[:3, :3].T + affine[:3, 3]
            assert ((places - point) @ normal * side.sign > 15).all()
            assert (np.linalg.norm(places - truth["landmarks_lps"][f"tympanum_{side}"], axis=1) < 60).all()


def test_the_truth_and_the_series_share_their_voxels(hospital, truths):
    """A healthy tympanic cavity is air at its true position, in the files as read."""
    checked = 0
    for truth in truths:
        series = open_series(main_series(hospital, truth))
        with np.load(hospital / "truth" / truth["lesion_file"]) as file:
            ours = file["affine_lps"]
        ends = [np.sort(m[:3, :3] @ (np.array(series.shape) - 1) + 2 * m[:3, 3]) for m in (ours, series.affine.matrix)]
        np.testing.assert_allclose(*ends, atol=1e-3)
        for side in SIDES:
            if truth["codes"][side] != NORMAL:
                continue
            tympanum = [*truth["landmarks_lps"][f"tympanum_{side}"], 1]
            k, r, c = np.rint(np.linalg.inv(series.affine.matrix) @ tympanum)[:3].astype(int)
            assert np.median(series.slice(k)[r - 1:r + 2, c - 1:c + 2]) < -500
            checked += 1
    assert checked >= 5


def test_ears_drawn_without_files_have_the_orientation_of_ears_cut_from_files(hospital, truths):
    exams = {exam.exam_id: exam for exam in sample_population(SPEC.num_exams, SPEC.seed)}
    for truth in truths:
        with threadpool_limits(1):
            cut = prepare_ears(open_series(main_series(hospital, truth)), EarSpec(num_slices=8, image_size=32, crop_mm=64))
        drawn = draw_ears(exams[truth["exam_id"]], SPEC, num_slices=8, image_size=32, crop_mm=64)
        for side in SIDES:
            like, mirrored, turned, upended = (np.corrcoef(coarse(cut[side].volume), coarse(other))[0, 1] for other in (
                drawn[side], drawn[side][:, :, ::-1], drawn[side][:, ::-1], drawn[side][::-1]))
            assert like > max(mirrored, turned, upended) + 0.1


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
def test_every_disease_marks_only_its_own_ear_and_a_healthy_ear_has_no_mark(code):
    kinds = set()
    for n in range(12):
        rng = np.random.default_rng([code, n])
        side = SIDES[n % 2]
        person, pose = sample_person(rng), sample_pose(rng)
        changes = {side: sample_change(code, rng), side.other: sample_change(NORMAL, rng)}
        marks = landmarks(person, pose)
        middle = np.mean([marks["mastoid_left"], marks["mastoid_right"]], axis=0)
        shape, steps = (20, 40, 80), np.array([[0, 0, 1.6], [0, 1.6, 0], [1.6, 0, 0]])
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = steps, middle - steps @ ((np.array(shape) - 1) / 2)
        lesion = draw_head(person, changes, pose, Affine(affine), shape).lesion
        assert changes[side].code == code and not (lesion & LESION_BIT[side.other]).any()
        marked = (lesion & LESION_BIT[side]).any()
        if code == NORMAL:
            assert not marked
        elif changes[side].kind not in CAN_BE_EMPTY:
            assert marked
        kinds.add(changes[side].kind)
    assert len(kinds) >= {3: 2, 6: 4}.get(code, 1)


def test_every_label_in_the_sheet_is_true(hospital, truths):
    sheet = read_label_sheet(hospital / "metadata" / "labels.xlsx")
    assert not sheet.rejects
    rows = sheet.labels.set_index("exam_id")
    labelled = unlabelled = 0
    for truth in truths:
        if truth["exam_id"] not in rows.index:
            unlabelled += 2
            continue
        for side in SIDES:
            said = rows.loc[truth["exam_id"], f"{side}_code"]
            labelled, unlabelled = labelled + (said != UNLABELLED), unlabelled + (said == UNLABELLED)
            assert said in (UNLABELLED, truth["codes"][side])
    assert labelled >= 14 and unlabelled >= 4
    assert len(set(rows.index) - {t["exam_id"] for t in truths}) == 2            # the sheet also lists exams that do not exist


def test_truth_csv_equals_the_json_of_each_exam(hospital, truths):
    table = pd.read_csv(hospital / "truth" / "truth.csv", dtype={"exam_id": str})
    assert len(table) == 2 * len(truths) == 2 * SPEC.num_exams
    for truth in truths:
        for side in SIDES:
            row = table[(table.exam_id == truth["exam_id"]) & (table.side == side)].iloc[0]
            assert (row.code, row.kind) == (truth["codes"][side], truth["kinds"][side])
            found = [row[f"tympanum_{axis}_mm"] for axis in "xyz"]
            np.testing.assert_allclose(found, truth["landmarks_lps"][f"tympanum_{side}"], atol=1e-6)

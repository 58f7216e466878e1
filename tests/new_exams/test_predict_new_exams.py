"""New exams get the predictions of the main route, or a refusal with its reason."""
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.commands import run, working_in
from helpers.dicom_files import shorten_pixels
from helpers.drawn_bodies import draw_body
from helpers.locks import held
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.new_exams import ear_predictor
from medical_fenlei.tasks import find_task
from medical_fenlei.trained.calibration import Calibration
from medical_fenlei.training.checkpoint import read_checkpoint, write_checkpoint
from medical_fenlei.vocabulary import SIDES

pytestmark = pytest.mark.end_to_end

SPLITS, DATA = "artifacts/splits_dual_patient", "data/medical_data_2"
BEST, SIX, TWO = (f"outputs/{name}/checkpoints/best.pt" for name in ("a", "six", "two"))
TASK = "normal_vs_abnormal"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A hospital with three networks, one of them calibrated, and what eval_ear2d says of validation."""
    here = tmp_path_factory.mktemp("hospital")
    with working_in(here):
        assert run("make_demo_dataset", "--out-dir", ".", "--num-exams", 24, "--slices", 24, "--num-workers", 1) == 0
        assert run("build_index", "--num-workers", 1) == 0 and run("build_manifest_ears", "--num-workers", 1) == 0
        assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split", "--val-ratio", 0.3, "--tune-ratio", 0.3) == 0
        assert run("build_cache_ears", "--splits-root", SPLITS, "--num-slices", 6, "--image-size", 48, "--crop-mm", 64,
                   "--num-workers", 1) == 0
        for name, tasks in (("a", TASK), ("six", "six_class"), ("two", f"{TASK},cholesteatoma_vs_csoma")):
            assert run("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--backbone", "test_resnet", "--batch-size", 8,
                       "--precision", "fp32", "--device", "cpu", "--epochs", 1, "--label-task", tasks,
                       "--output-dir", f"outputs/{name}") == 0
        for checkpoint in (BEST, SIX):
            assert run("eval_ear2d", "--pictures", 0, "--checkpoint", checkpoint) == 0
    return here


@pytest.fixture
def here(hospital, tmp_path, monkeypatch):
    """A copy of the networks to work with, the hospital's data, and an empty folder `new` to fill."""
    for name in ("outputs", "artifacts"):
        shutil.copytree(hospital / name, tmp_path / name)
    (tmp_path / "data").symlink_to(hospital / "data")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validation():
    """The rows of its index."""
    return tables.read_split(Path(SPLITS), 100).sets["val"]


def bring(here, exams, series_only=False):
    """These rows' folders, as they lie in the hospital."""
    for row in exams.itertuples():
        what = row.series_relpath if series_only else row.exam_relpath
        shutil.copytree(here / DATA / what, here / "new" / what)


def alter(here, row, folder, change):
    """The chosen series of an exam as a study of its own, with changes to each image."""
    (here / "new" / folder).mkdir()
    for path in sorted((here / DATA / row.series_relpath).iterdir()):
        ds = pydicom.dcmread(path)
        if ds.file_meta.TransferSyntaxUID.is_compressed:
            ds.decompress()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{len(folder)}", f"1.2.{len(folder)}.1"
        change(ds)
        ds.save_as(here / "new" / folder / path.name)


def predict(*words, checkpoint=BEST, out="answers"):
    return run("predict_ear2d", "--dicom", "new", "--checkpoint", checkpoint, "--out-dir", out, "--device", "cpu",
               "--num-workers", 1, *words)


def answers(here, out="answers"):
    return tables.NEW_EXAM_ANSWERS.read(here / out / "predictions.csv")


def of_class(found, name):
    return found[found["class"] == name].set_index(["exam_id", "side"]).probability


def test_predictions_are_those_of_the_main_route(here):
    bring(here, validation())
    assert predict("--top-k", 0) == 0
    known = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv").set_index(["exam_id", "side"])
    found = answers(here)
    probability = of_class(found, "abnormal")
    assert len(known) and set(known.index) <= set(probability.index)
    np.testing.assert_allclose(probability[known.index], known.y_prob, atol=1e-6)
    assert set(probability.index) == {(exam, str(side)) for exam in validation().exam_id for side in SIDES}
    both = probability.unstack()
    assert (both.left != both.right).all()
    assert not found.calibrated.any() and (found.threshold.dropna() == 0.5).all() and (found.refused == "").all()
    page = (here / "answers/page.html").read_text(encoding="utf-8")
    assert "not calibrated" in page and "decided at 0.5" in page


def test_every_class_of_several_has_its_probability(here):
    bring(here, validation()[:2])
    assert predict(checkpoint=SIX) == 0
    known = tables.PREDICTIONS.read(here / "outputs/six/reports/predictions_val.csv")
    found, task = answers(here), find_task("six_class")
    for row in known[known.exam_id.isin(found.exam_id)].itertuples():
        own = found[(found.exam_id == row.exam_id) & (found.side == row.side)].set_index("class")
        np.testing.assert_allclose(own.probability[list(task.class_names)], [getattr(row, f"prob_{c}") for c in range(1, 7)],
                                   atol=1e-6)
        assert set(own.decision) == {task.class_names[row.y_pred]} and own.threshold.isna().all()


def test_a_network_of_several_tasks_predicts_each_or_those_requested(here):
    bring(here, validation()[:1])
    assert predict(checkpoint=TWO) == 0
    found = answers(here)
    assert set(found.task) == {TASK, "cholesteatoma_vs_csoma"} and len(found) == 8
    assert all((here / "answers" / picture).is_file() for picture in found.picture)
    assert predict("--label-task", "cholesteatoma_vs_csoma", checkpoint=TWO) == 0
    assert set(answers(here).task) == {"cholesteatoma_vs_csoma"} and predict("--label-task", "six_class", checkpoint=TWO) == 2


def test_calibration_changes_probabilities_and_thresholds_by_its_own_values(here):
    bring(here, validation()[:2])
    assert predict("--top-k", 0) == 0
    before = of_class(answers(here), "abnormal")
    assert run("calibrate_ear2d", "--checkpoint", BEST) == 0
    fitted = Calibration.read(here / BEST, kind="ear2d").tasks[TASK]
    for words, point in (((), fitted.point), (("--point", "specificity_95"), "specificity_95")):
        assert predict("--top-k", 0, *words) == 0
        found = answers(here)
        logit = np.log(before / (1 - before)) / fitted.temperature
        np.testing.assert_allclose(of_class(found, "abnormal"), 1 / (1 + np.exp(-logit)), atol=1e-9)
        positive = found[found["class"] == "abnormal"]
        np.testing.assert_allclose(positive.threshold, fitted.points[point])
        assert (positive.decision == np.where(positive.probability >= positive.threshold, "abnormal", "normal")).all()
        assert found.calibrated.all()
    assert predict("--point", "none") == 2


def test_an_exam_that_was_predicted_before_is_not_predicted_again(here, capsys):
    bring(here, validation()[:2])
    assert predict() == 0 and "0 of them answered before" in capsys.readouterr().out
    written = {name: (here / "answers" / name).read_bytes() for name in ("predictions.csv", "predictions.json", "page.html")}
    assert predict() == 0 and "2 of them answered before" in capsys.readouterr().out
    assert {name: (here / "answers" / name).read_bytes() for name in written} == written
    first, second = validation().exam_id[:2]
    next((here / "new").rglob(f"{first}/*/*")).touch()
    (here / "answers" / second / "scan.png").unlink()
    assert predict() == 0 and "0 of them answered before" in capsys.readouterr().out
    assert predict(checkpoint=SIX) == 0 and "0 of them answered before" in capsys.readouterr().out


def test_files_of_others_in_the_output_are_neither_removed_nor_replaced(here, capsys):
    bring(here, validation()[:1])
    exam = validation().exam_id.iloc[0]
    for taken in (f"{exam}/photo.png", "page.html"):
        (here / "answers" / taken).parent.mkdir(parents=True, exist_ok=True)
        (here / "answers" / taken).write_text("kept")
        assert predict() == 2 and f"holds {taken.split('/')[0]}, which this command did not write" in capsys.readouterr().err
        assert (here / "answers" / taken).read_text() == "kept" and not (here / "answers/predictions.csv").exists()
        shutil.rmtree(here / "answers")
    assert predict() == 0
    (here / "answers" / exam / "photo.png").write_text("kept")
    next((here / "new").rglob(f"{exam}/*/*")).touch()            # so that the exam is predicted again
    capsys.readouterr()
    assert predict() == 0 and "0 of them answered before" in capsys.readouterr().out
    assert (here / "answers" / exam / "photo.png").read_text() == "kept"


def test_an_ear_without_a_finite_output_is_refused_and_the_other_is_answered(here, monkeypatch):
    bring(here, validation()[:2])
    inside, first = ear_predictor.forward_blocks, validation().exam_id.min()

    def broken(model, volumes, augment):
        found = inside(model, volumes, augment)
        if not seen:
            found.logits[0] = np.nan
        seen.append(len(volumes))
        return found

    seen: list[int] = []
    monkeypatch.setattr(ear_predictor, "forward_blocks", broken)
    assert predict("--top-k", 0) == 3 and seen == [2, 2]
    found = answers(here)
    assert found[found.refused == "not_finite"][["exam_id", "side"]].to_numpy().tolist() == [[first, "left"]]
    assert (found[found.refused == ""].probability > 0).all()


def test_an_exam_named_like_an_output_gets_another_name(here):
    bring(here, validation()[:1])
    (found,) = (here / "new").glob("*/*")
    found.rename(found.with_name("page.html"))
    assert predict() == 0
    assert (here / "answers/page.html").is_file() and set(answers(here).exam_id) == {"page.html_2"}


def test_a_network_that_cannot_be_explained_predicts_without_pictures_and_only_once(here, capsys, monkeypatch):
    def refuse(*given):
        raise UserError("this backbone does not name its stages")

    monkeypatch.setattr(ear_predictor, "look_for", refuse)
    bring(here, validation()[:1])
    assert predict() == 0 and predict() == 0
    said = capsys.readouterr()
    assert said.out.count("1 of them answered before") == 1 and said.err.count("does not name its stages") == 1
    assert (answers(here).decision != "").all() and (answers(here).picture == "").all()


def test_one_ear_cut_off_leaves_the_other_predicted(here):
    row = validation().iloc[0]
    bring(here, validation()[:1])
    whole = pydicom.dcmread(next((here / DATA / row.series_relpath).iterdir()))
    to_left = whole.ImageOrientationPatient[0] > 0

    def half(ds):
        keep = ds.Columns * 5 // 8
        ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, :keep]).tobytes()
        ds.Columns = keep

    alter(here, row, "half", half)
    assert predict("--top-k", 0) == 3
    found = answers(here)
    own = found[(found.exam_id == "half")].set_index("side")
    lost, kept = ("left", "right") if to_left else ("right", "left")
    assert own.refused[lost] == "ear_not_in_scan" and (own.refused.loc[[kept]] == "").all()
    rejects = tables.REJECTS.read(here / "answers/predictions_rejects.csv")
    assert (rejects.reason == "ear_not_in_scan").sum() == 1 and (found.exam_id != "half").sum() == 4


def test_a_chest_is_refused_and_a_scan_that_is_no_plain_head_is_doubted(here):
    row = validation().iloc[0]

    def chest(ds):
        x, y = (np.array(ds.PixelSpacing, float)[::-1, None, None] * (np.indices((ds.Rows, ds.Columns))[::-1] - ds.Rows / 2))
        hu = draw_body("chest", 1, np.stack([x, y, np.full_like(x, ds.ImagePositionPatient[2])])[:, None])[0]
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelRepresentation = 1, -1024, 0
        ds.PixelData = (hu + 1024).clip(0).astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 0

    def turned(ds):
        ds.PixelData, ds.BodyPartExamined = np.ascontiguousarray(ds.pixel_array[::-1]).tobytes(), "CHEST"

    alter(here, row, "chest", chest)
    alter(here, row, "turned", turned)
    assert predict("--top-k", 0) == 3
    found = answers(here).set_index("exam_id")
    assert (found.refused["chest"] == "not_a_head").all() and (found.refused["turned"] == "").all()
    for flag in ("turned_over", "other_body_part", "low_confidence"):
        assert found.quality_flags["turned"].str.contains(flag).all()
    assert "does not show a head" in (here / "answers/page.html").read_text(encoding="utf-8")


def test_two_series_with_one_ear_each_give_predictions_for_both_ears(here):
    row = validation().iloc[0]

    def part(first, uid):
        def change(ds):
            columns = ds.Columns // 2
            ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, first * columns:(first + 1) * columns]).tobytes()
            step = np.array(ds.ImageOrientationPatient[:3], float) * float(ds.PixelSpacing[1])
            ds.ImagePositionPatient = [*(np.array(ds.ImagePositionPatient, float) + first * columns * step)]
            ds.Columns, ds.StudyInstanceUID, ds.SeriesInstanceUID = columns, "1.2.77", f"1.2.77.{uid}"
        return change

    for number, folder in enumerate(("one", "two")):
        alter(here, row, folder, part(number, number))
        shutil.move(here / "new" / folder, here / "new/pair" / folder)
    assert predict() == 0
    exam, = json.loads((here / "answers/predictions.json").read_text())["exams"]
    assert exam["exam_id"] == "pair"
    for ear in exam["ears"]:
        assert ear["tasks"] and "series_of_one_ear" in [flag["code"] for flag in ear["flags"]]
        assert np.sign(ear["facts"]["ear_centre_lps_mm"][0]) == (1 if ear["side"] == "left" else -1)


def test_a_slice_that_cannot_be_decoded_refuses_its_exam_and_no_other(here):
    bring(here, validation()[:1])
    (here / "new/short").mkdir()
    for path in (here / DATA / validation().series_relpath.iloc[1]).iterdir():
        shutil.copy(path, here / "new/short" / path.name)
        shorten_pixels(here / "new/short" / path.name, 2000)
    assert predict("--top-k", 0) == 3
    found = answers(here)
    own = found[found.exam_id == "short"]
    assert len(own) == 2 and (own.refused != "").all() and own.refused_why.str.contains("IM00").all()
    assert (found[found.exam_id != "short"].decision != "").all()


def scaled(attribute, factor):
    def change(ds):
        if attribute == "PixelSpacing":
            ds.PixelSpacing = [float(value) * factor for value in ds.PixelSpacing]
        elif attribute == "SliceThickness":
            ds.SliceThickness = float(ds.SliceThickness) * factor
        else:
            ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], float(ds.ImagePositionPatient[2]) * factor]
    return change


def soft(ds):
    ds.Manufacturer, ds.ConvolutionKernel = "SIEMENS", "H31s"


@pytest.mark.parametrize(("change", "reason"), [
    (scaled("PixelSpacing", 0.6), "pixel_out_of_range"), (scaled("SliceThickness", 3), "thickness_out_of_range"),
    (scaled("ImagePositionPatient", 0.5), "slice_spacing_out_of_range"), (soft, "no_bone_kernel"),
])
def test_a_scan_unlike_the_training_set_is_refused_and_force_marks_the_prediction(here, change, reason):
    alter(here, validation().iloc[0], "odd", change)
    assert predict("--top-k", 0) == 3
    found = answers(here)
    assert list(found.refused) == [reason] * 2 and (found.decision == "").all() and (found.refused_why != "").all()
    assert predict("--top-k", 0, "--force") in (0, 3)              # of half a field of view an ear may be missing after all
    forced = answers(here)
    assert reason in ";".join(forced.forced) and forced.decision.isin(["normal", "abnormal", ""]).all()
    assert (forced.decision != "").any() and reason not in set(forced.refused)


def test_an_earlier_checkpoint_takes_its_limits_from_the_manifest_or_warns_that_it_has_none(here, capsys):
    alter(here, validation().iloc[0], "odd", soft)
    write_checkpoint(here / BEST, replace(read_checkpoint(here / BEST, kind="ear2d"), trained_on=None))
    assert predict("--top-k", 0) == 3 and set(answers(here).refused) == {"no_bone_kernel"}
    (here / "artifacts/manifest_ears.csv").unlink()
    assert predict("--top-k", 0) == 0
    assert answers(here).quality_flags.str.contains("scope_unknown").all() and "cannot be checked" in capsys.readouterr().err


def test_an_exam_of_thick_soft_slices_alone_is_refused_and_the_others_are_predicted(here):
    bring(here, validation()[:1])

    def thick(ds):
        soft(ds)
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], 8 * float(ds.ImagePositionPatient[2])]

    alter(here, validation().iloc[1], "soft", thick)
    (here / "new/notes.txt").write_text("not DICOM")
    assert predict("--top-k", 0) == 3
    found = answers(here)
    assert list(found[found.exam_id == "soft"].refused) == ["no_series"] * 2
    assert set(found[found.exam_id != "soft"].decision) <= {"normal", "abnormal"}
    assert "too far apart" in found.refused_why[found.exam_id == "soft"].iloc[0]
    rejects = tables.REJECTS.read(here / "answers/predictions_rejects.csv")
    assert "not_dicom" in set(rejects.reason)


def test_files_of_many_exams_in_one_folder_are_not_mixed(here):
    wanted = validation()[:2]
    for row in wanted.itertuples():
        for path in (here / DATA / row.series_relpath).iterdir():
            shutil.copy(path, here / "new" / f"{row.exam_id}_{path.stem}")
    assert predict("--top-k", 0) == 0
    known = tables.PREDICTIONS.read(here / "outputs/a/reports/predictions_val.csv")
    expected = sorted(known[known.exam_id.isin(wanted.exam_id)].y_prob)
    got = of_class(answers(here), "abnormal")
    assert list(got.index.get_level_values(0)) == ["new", "new", "new_2", "new_2"]
    assert all(np.abs(got - value).min() < 1e-6 for value in expected)


def test_images_of_two_patients_in_one_series_are_refused_even_by_force(here):
    def other(ds):
        if ds.InstanceNumber == 12:
            ds.PatientID = "SOMEBODY_ELSE"

    alter(here, validation().iloc[0], "mixed", other)
    assert predict("--force", "--top-k", 0) == 3
    assert set(answers(here).refused) == {"several_patients"}


def test_nobody_is_named_anywhere_and_the_page_needs_no_network(here, capsys):
    rows = validation()[:2]
    bring(here, rows[:1])
    person = {"PatientID": "P7731CANARY", "PatientName": "Canary^Anna", "PatientBirthDate": "19340217", "StudyDate": "20200102"}

    def name(ds):
        for keyword, value in person.items():
            setattr(ds, keyword, value)

    alter(here, rows.iloc[1], "Canary_Anna_20200102", name)
    (here / "new/Canary_Anna_20200102/P7731CANARY.txt").write_text("x")
    assert predict() == 0
    said = "".join(capsys.readouterr())
    written = [path for path in (here / "answers").rglob("*") if path.is_file()]
    told = said.encode() + b"".join(str(path.relative_to(here)).encode() + path.read_bytes() for path in written)
    for secret in (b"canary", b"anna", b"7731", b"1934", b"20200102", b"synthetic^"):
        assert secret not in told.lower(), secret
    date = rows.exam_relpath.iloc[0].split("/")[-2]
    assert date.encode() not in told and rows.exam_id.iloc[0].encode() in told
    page = (here / "answers/page.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page) and "http" not in page
    assert page.count("data:image/jpeg;base64,") == 2 * 3
    for png in (here / "answers").rglob("*.png"):
        with Image.open(png) as picture:
            picture.load()
            assert not picture.info and len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_the_page_shows_every_exam_in_a_browser(here, tool):
    bring(here, validation()[:2])
    assert predict() == 0
    chromium = tool("chromium", "chromium-browser", "google-chrome")
    words = (chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", (here / "answers/page.html").as_uri())
    text = re.sub(r"<[^>]+>", " ", subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert all(exam in text for exam in validation().exam_id[:2]) and "Right ear" in text and "Research use only" in text


def test_the_json_has_model_probabilities_slices_and_positions(here):
    bring(here, validation()[:1])
    assert predict() == 0
    said = json.loads((here / "answers/predictions.json").read_text())
    assert "not a medical device" in said["notice"] and len(said["model"]["sha256"]) == 64 and said["versions"]["torch"]
    assert said["model"]["trained_on"]["known_from"] == "checkpoint" and said["model"]["trained_on"]["kernels"]
    exam, = said["exams"]
    chosen = here / "new" / validation().series_relpath.iloc[0]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in chosen.iterdir()]
    positions = {int(own.InstanceNumber): float(own.ImagePositionPatient[2]) for own in headers}
    spacing = np.diff(sorted(positions.values())).max()
    for ear in exam["ears"]:
        task, = ear["tasks"]
        assert sum(task["classes"].values()) == pytest.approx(1) and task["decision"] in task["classes"]
        assert len(task["slices"]) == 4 and 0 <= ear["facts"]["padded_share"] <= 1
        assert np.sign(ear["facts"]["ear_centre_lps_mm"][0]) == (1 if ear["side"] == "left" else -1)
        k = [one["k"] for one in task["slices"]]
        height = (np.array(ear["facts"]["affine_lps"]) @ [k[0], 23.5, 23.5, 1])[2]
        assert task["slices"][0]["z_mm"] == pytest.approx(height, abs=0.01) and len(set(k)) == 4
        for one in task["slices"]:                               # the image that a slice is next to
            assert positions[one["image"]] == pytest.approx(one["image_z_mm"], abs=0.0051)
            assert abs(one["image_z_mm"] - one["z_mm"]) <= spacing
    rows = tables.NEW_EXAM_ANSWERS.read(here / "answers/predictions.csv").drop_duplicates("side").set_index("side")
    for ear in exam["ears"]:
        task, = ear["tasks"]
        assert rows.top_images[ear["side"]].split(";") == [
            f"image {one['image']} (z {one['image_z_mm']:.1f} mm)" for one in task["slices"]]


def test_a_second_process_that_answers_into_the_same_folder_is_refused(here, capsys):
    bring(here, validation()[:1])
    with held(here / "answers/.lock") as process:
        assert predict() == 2
    err = capsys.readouterr().err
    assert "--out-dir answers: another process is writing there" in err and f"process {process} on " in err
    assert [path.name for path in (here / "answers").iterdir()] == [".lock"]
    assert predict() == 0


@pytest.mark.parametrize(("words", "says"), [
    (("--dicom", "none"), "--dicom none: no such folder"), (("--dicom", "new"), "holds no readable CT image"),
    (("--dicom", DATA, "--out-dir", f"{DATA}/answers"), "lies within"), (("--dicom", DATA, "--out-dir", "data"), "holds"),
    (("--dicom", DATA, "--checkpoint", "none.pt"), "none.pt"), (("--dicom", DATA, "--checkpoint", "dual.pt"), "predict_dual"),
    (("--dicom", DATA, "--label-task", "six_class"), "--label-task"), (("--dicom", DATA, "--top-k", "-1"), "--top-k"),
])
def test_wrong_input_is_one_line_with_status_2(here, capsys, words, says):
    plain = read_checkpoint(here / BEST, kind="ear2d")
    plain.__dict__["kind"] = "dual"
    write_checkpoint(here / "dual.pt", plain)
    flags = {"--checkpoint": BEST, "--out-dir": "answers", "--device": "cpu", **dict(zip(words[::2], words[1::2], strict=True))}
    assert run("predict_ear2d", *(word for pair in flags.items() for word in pair)) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(err) == 1 and says in err[0]
    assert not (here / "answers/page.html").exists()

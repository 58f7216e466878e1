"""From faulty DICOM folders to a cache, through the scripts: what is used, what is left out, and what is reported."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, axial, head, write_volume
from helpers.locks import held

from medical_fenlei import tables
from medical_fenlei.ears.build import fill_store
from medical_fenlei.ears.store import choose_store
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import Side

SHAPE = (10, 64, 64)
SPEC_FLAGS = ("--num-slices", 4, "--image-size", 32, "--crop-mm", 40)
NUMBER_OF_EXAMS = 12


def person(number, **more):
    return {"PatientID": f"SECRET{number:04d}", "PatientName": f"CANARY^{number}", "PatientBirthDate": "19010203", **more}


def write_exam(base, date, exam_id, number, *, thick=False, shape=SHAPE):
    """A bone series of ten slices, a scout, and a softer series of more slices."""
    hu = head(shape, seed=number)
    exam = base / date / exam_id
    write_volume(exam / "bone", hu, axial(shape, (1.0, 2.5, 2.5)), SeriesFormat(attributes=person(number)))
    scout = SeriesFormat(attributes=person(number, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write_volume(exam / "scout", hu[:2], axial((2, *shape[1:]))[[0, 2, 1, 3]], scout)
    soft = SeriesFormat(attributes=person(number, ConvolutionKernel="H30f"))
    finer = (2 * shape[0], *shape[1:])
    write_volume(exam / "soft", head(finer, seed=1000 + number), axial(finer, (0.5, 2.5, 2.5)), soft)
    return exam


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    base = tmp_path_factory.mktemp("hospital")
    dicom = base / "data" / "medical_data_2"
    rows = []
    for n in range(NUMBER_OF_EXAMS):
        date = f"2023-01-{n + 1:02d}"
        write_exam(dicom / "wrapper" if n % 3 == 0 else dicom, date, f"{n:06d}", number=n // 2 if n < 4 else n)
        sheet_date = date if n % 3 else "2022-12-31"
        rows.append([f"{n:06d}", sheet_date, *(("5：", "2:中耳胆脂瘤") if n % 2 else ("1：", "5：正常"))])
    write_exam(dicom, "2023-05-05", "000001", number=0)          # one id under two dates
    write_exam(dicom, "2023-05-06", "999999", number=77)         # not in the sheet
    rows += [["000777", "2023-01-01", "1", "1"]]                 # not on disk
    rows[3][2:] = ["", ""]                                       # no label
    rows[4][3] = ""                                              # one label
    (base / "metadata").mkdir()
    columns = ["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练"]
    with pd.ExcelWriter(base / "metadata" / "labels.xlsx") as book:
        pd.DataFrame(rows, columns=columns).to_excel(book, sheet_name="影像学检查", index=False)
    return base


def to_splits():
    """The commands of the main route as far as the splits."""
    assert run("build_index", "--out-csv", "artifacts/dataset_index.csv", "--num-workers", 1) == 0
    assert run("build_manifest_ears", "--num-workers", 1) == 0
    assert run("make_splits_dual", "--out-dir", "artifacts/splits_dual_patient", "--patient-split") == 0


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
            and path.name != ".lock"}


@pytest.mark.parametrize(("words", "lock"), [
    (("build_index", "--num-workers", 1), ".dataset_index.lock"),
    (("build_manifest_ears", "--num-workers", 1), ".manifest_ears.lock"),
    (("make_splits_dual", "--out-dir", "artifacts/splits_dual_patient", "--patient-split", "--val-ratio", 0.4),
     "splits_dual_patient/.lock"),
])
def test_a_second_writer_of_one_output_is_refused_in_a_line_that_says_who_and_changes_nothing(here, capsys, words, lock):
    to_splits()
    before = contents(here / "artifacts")
    capsys.readouterr()
    with held(here / "artifacts" / lock) as process:
        assert run(*words) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert "another process is writing" in err and f"process {process} on " in err
        assert contents(here / "artifacts") == before
    assert run(*words) == 0                                      # it was killed


def test_indexes_and_manifests_of_two_names_in_one_folder_keep_their_files_apart(here):
    to_splits()
    before = contents(here / "artifacts")
    assert run("build_index", "--num-workers", 1, "--limit", 3, "--out-csv", "artifacts/b_index.csv") == 0
    assert run("build_manifest_ears", "--num-workers", 1, "--index-csv", "artifacts/b_index.csv", "--out-csv",
               "artifacts/b_ears.csv") == 0
    after = contents(here / "artifacts")
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} == {
        *(f"b_index{ending}" for ending in (".csv", "_scan.jsonl", "_rejects.csv", "_counts.json", "_series_report.csv")),
        *(f"b_ears{ending}" for ending in (".csv", "_rejects.csv", "_counts.json", "_linked_patients.csv"))}
    assert len(tables.SERIES.read(here / "artifacts/b_index_series_report.csv")) < len(
        tables.SERIES.read(here / "artifacts/series_report.csv"))


def test_exams_match_by_id_alone_and_the_best_series_is_chosen(here, capsys):
    assert run("build_index", "--num-workers", 2) == 0
    index = tables.INDEX.read(here / "artifacts/dataset_index.csv").set_index("exam_id")
    assert len(index) == NUMBER_OF_EXAMS
    assert index.series_relpath.str.endswith("/bone").all() and (index.n_instances == 10).all()
    assert index.loc["000001", "date"] == "2023-01-02" and index.ambiguous_match.sum() == 1       # the sheet's date wins
    assert not index.loc["000003", "date_match"] and index.loc["000004", "right_code"] == 0
    said = capsys.readouterr().out
    for line in ("13 rows in the label sheet", "12 matched", "1 missing", "1 of these, ambiguous", "1 unlabelled", "11 usable"):
        assert line in " ".join(said.split())
    reasons = tables.REJECTS.read(here / "artifacts/dataset_index_rejects.csv").reason.value_counts()
    assert reasons["localizer"] == NUMBER_OF_EXAMS + 1 and reasons["not_chosen"] == NUMBER_OF_EXAMS + 2   # one lies there twice
    assert reasons["missing_on_disk"] == reasons["not_in_sheet"] == 1
    other, = tables.REJECTS.read(here / "artifacts/dataset_index_rejects.csv").query("reason == 'several_folders'").itertuples()
    assert other.exam_id == "000001" and other.file != index.exam_relpath["000001"]
    assert f"{index.exam_relpath['000001']} is used: it has the date of the label sheet" in other.detail


def test_each_step_from_dicom_to_the_cache_writes_its_tables(here, capsys):
    to_splits()
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    assert len(manifest) == 2 * NUMBER_OF_EXAMS and manifest.patient_key.nunique() == NUMBER_OF_EXAMS - 2
    assert (manifest.slice_increment_mm == 1).all() and (manifest.task_y__normal_vs_cholesteatoma == "1").sum() == (
        manifest.label_code == 2).sum()
    assert run("check_patient_leakage") == 0
    cache = ("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", *SPEC_FLAGS)
    assert run(*cache, "--num-workers", 2) == 0
    store = choose_store(here / "cache/ears_hu", None)
    index = tables.CACHE_INDEX.read(store.folder / "index.csv")
    assert len(index) == 2 * (NUMBER_OF_EXAMS - 1)               # the exam without a label is in no split
    assert store.read("000000", Side.LEFT).shape == (4, 32, 32)
    facts = store.read_facts("000000", Side.RIGHT)
    assert facts["exam_id"] == "000000" and facts["side"] == "right" and len(facts["slice_files"]) == 4
    before = {p: p.stat().st_mtime_ns for p in store.folder.glob("*.npy")}
    assert run(*cache, "--num-workers", 1) == 0                  # a second run finds everything there
    assert before == {p: p.stat().st_mtime_ns for p in store.folder.glob("*.npy")}
    assert "22 were there, 0 made" in capsys.readouterr().out


def test_the_builder_says_what_the_crop_is_in_mm_and_how_many_are_unusual(here, capsys):
    to_splits()
    path = here / "artifacts/manifest_ears.csv"
    build = ("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", "--num-slices", 4, "--image-size", 32,
             "--num-workers", 1)
    for flags, says in ((("--crop-size", 40), "crops of 40 pixels: 100 to 100 mm over 11 series"),
                        (("--crop-size", 12), "crops of 12 pixels: 30 to 30 mm over 11 series, 11 of them beyond 50 to 120 mm; "
                                              "with --crop-mm 80 all have the same extent"), (("--crop-mm", 80), "")):
        capsys.readouterr()
        assert run(*build, *flags, "--cache-dir", f"cache/{flags[1]}") == 0
        assert [line for line in capsys.readouterr().out.splitlines() if "crops of" in line] == [says] * bool(says)
    store = choose_store(here / "cache/12", None)
    assert np.allclose(Affine.from_list(store.read_facts("000000", Side.LEFT)["affine_lps"]).spacing[1:] * 32, 30)
    manifest = tables.MANIFEST.read(path)
    spacing = manifest.pixel_spacing_mm.where(manifest.exam_id != "000000", 4.0).where(manifest.exam_id != "000005", np.nan)
    tables.MANIFEST.write(path, manifest.assign(pixel_spacing_mm=spacing))
    assert run(*build, "--crop-size", 40, "--cache-dir", "cache/40") == 0
    assert "40 pixels: 100 to 160 mm over 10 series, 1 of them beyond" in capsys.readouterr().out


def test_a_build_in_one_process_and_in_two_gives_the_same_bytes(here):
    to_splits()
    for workers in (1, 2):
        assert run("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", *SPEC_FLAGS, "--limit", 3,
                   "--cache-dir", f"cache/{workers}", "--num-workers", workers) == 0
    one, two = (choose_store(here / "cache" / name, None).folder for name in "12")
    assert (one / "index.csv").read_bytes() == (two / "index.csv").read_bytes()


def test_nothing_that_identifies_a_person_is_written(here, capfd):
    to_splits()
    run("check_patient_leakage")
    run("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", *SPEC_FLAGS, "--limit", 1)
    said = capfd.readouterr()
    written = [p for folder in ("artifacts", "cache", "config") for p in (here / folder).rglob("*") if p.is_file()]
    assert len(written) > 15
    for text in [said.out.encode(), said.err.encode(), *(p.read_bytes() for p in written)]:
        assert not any(word in text for word in (b"SECRET", b"CANARY", b"19010203"))


def test_a_patient_in_two_sets_is_found(here, capsys):
    to_splits()
    folder = here / "artifacts/splits_dual_patient/100pct"
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").drop_duplicates("exam_id").set_index("exam_id")
    train, val, tune = (tables.SPLIT.read(folder / f"{name}.csv") for name in ("train", "val", "tune"))
    everyone = pd.concat([train, val, tune])
    both = everyone[everyone.exam_id.isin(["000000", "000001"])]         # exams of one person
    tables.SPLIT.write(folder / "train.csv", pd.concat([train[~train.exam_id.isin(both.exam_id)], both[:1]]))
    tables.SPLIT.write(folder / "val.csv", pd.concat([val[~val.exam_id.isin(both.exam_id)], both[1:]]))
    capsys.readouterr()
    assert run("check_patient_leakage", "--splits-root", "artifacts/splits_dual_patient") == 1
    said = capsys.readouterr().out
    assert "LEAKAGE: 1 patients" in said and manifest.patient_key["000000"] in said


def test_before_any_split_the_check_lists_patients_and_a_split_by_exam_that_parts_one_fails(here, capsys):
    assert run("build_index") == 0 and run("build_manifest_ears") == 0
    assert run("check_patient_leakage") == 0
    assert "2 with several exams" in (said := capsys.readouterr().out) and "none yet" in said
    for seed in range(20):                                       # some seed parts a person's two exams
        assert run("make_splits_dual", "--out-dir", "artifacts/splits_dual", "--by-exam", "--seed", seed) == 0
        if run("check_patient_leakage"):
            assert "patients are in several sets of one split" in capsys.readouterr().out
            break
    else:
        pytest.fail("no seed parted a patient")


def sets_of_patients(here, root):
    """The patients of each set of a split, and whether its statistics say that it is by patient."""
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").drop_duplicates("exam_id").set_index("exam_id")
    split = tables.read_split(here / root, 100)
    said = json.loads((split.folder / "stats.json").read_text(encoding="utf-8"))["by_patient"]
    return [set(manifest.patient_key[exams.exam_id]) for exams in split.sets.values()], said


def test_splits_are_by_patient_unless_exams_are_asked_for_or_patients_are_unknown(here, capsys):
    assert run("build_index") == 0 and run("build_manifest_ears") == 0
    for seed in range(6):
        assert run("make_splits_dual", "--out-dir", f"artifacts/by_default_{seed}", "--seed", seed) == 0
        sets, by_patient = sets_of_patients(here, f"artifacts/by_default_{seed}")
        assert by_patient and sum(map(len, sets)) == len(set.union(*sets))
    assert run("make_splits_dual", "--out-dir", "artifacts/by_exam", "--by-exam") == 0
    assert not sets_of_patients(here, "artifacts/by_exam")[1] and "patients are unknown" not in capsys.readouterr().err
    (here / "artifacts/manifest_ears.csv").rename(here / "artifacts/kept.csv")
    assert run("make_splits_dual", "--out-dir", "artifacts/unknown") == 0
    assert "patients are unknown" in (said := capsys.readouterr().err) and "build_manifest_ears" in said
    for words in (("--patient-split",), ("--manifest-csv", "absent.csv")):
        assert run("make_splits_dual", "--out-dir", "artifacts/none", *words) == 2
    other = tables.MANIFEST.read(here / "artifacts/kept.csv")
    tables.MANIFEST.write(here / "artifacts/other.csv", other.assign(exam_id="9" + other.exam_id))
    capsys.readouterr()
    assert run("make_splits_dual", "--out-dir", "artifacts/none", "--manifest-csv", "artifacts/other.csv") == 2
    assert "it belongs to another index" in capsys.readouterr().err and not (here / "artifacts/none").exists()


def test_one_damaged_exam_costs_only_that_exam_and_is_accounted_for(here, hospital, capsys):
    (here / "data").unlink()
    shutil.copytree(hospital / "data", here / "data")
    base = here / "data/medical_data_2"
    text = base / "2023-01-02/000001/bone/note.dcm"
    text.write_text("a text file named .dcm")
    for path in (base / "2023-01-03/000002/bone").iterdir():
        path.write_bytes(path.read_bytes()[:300])                # truncated: the soft series is left
    shutil.rmtree(base / "2023-01-05/000004")
    (base / "2023-01-05/000004/empty").mkdir(parents=True)
    assert run("build_index") == 3
    index = tables.INDEX.read(here / "artifacts/dataset_index.csv").set_index("exam_id")
    assert index.series_relpath["000001"].endswith("/bone") and index.series_relpath["000002"].endswith("/soft")
    assert index.series_relpath["000004"] == ""
    rejects = tables.REJECTS.read(here / "artifacts/dataset_index_rejects.csv").set_index("file").reason
    assert rejects["2023-01-02/000001/bone/note.dcm"] == "not_dicom" and rejects["2023-01-05/000004"] == "no_series"
    assert run("build_manifest_ears") == 3
    assert run("make_splits_dual", "--out-dir", "artifacts/splits_dual_patient", "--patient-split") == 0
    for path in (base / "wrapper/2023-01-01/000000/bone").iterdir():
        path.write_bytes(path.read_bytes()[:-100])               # pixels damaged after indexing
    assert run("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", *SPEC_FLAGS) == 3
    store = choose_store(here / "cache/ears_hu", None)
    lost = tables.REJECTS.read(store.folder / "index_rejects.csv")
    assert set(lost.exam_id) == {"000000"} and (lost.reason == "bad_pixels").all() and len(lost) == 2
    assert len(tables.CACHE_INDEX.read(store.folder / "index.csv")) == 2 * (NUMBER_OF_EXAMS - 2) - 2
    assert "2 could not be used" in capsys.readouterr().err


def test_a_sheet_that_matches_no_folder_is_refused_with_an_id_of_either_and_the_earlier_index_stays(here, capsys):
    assert run("build_index", "--num-workers", 1) == 0
    before = contents(here / "artifacts")
    (here / "ids.csv").write_text("检查号,左侧诊断-训练,右侧诊断-训练\n9000001,5,1\n", encoding="utf-8")
    capsys.readouterr()
    assert run("build_index", "--xlsx-path", "ids.csv", "--num-workers", 1) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "ids.csv: the label sheet names no exam folder" in said and "'9000001'" in said and "000000" in said
    (here / "ids.csv").write_text("检查号,左侧诊断-训练,右侧诊断-训练\n", encoding="utf-8")
    assert run("build_index", "--xlsx-path", "ids.csv") == 2
    assert "no row below its header names an exam" in capsys.readouterr().err
    assert contents(here / "artifacts") == before


def test_the_index_of_another_hospital_is_not_replaced_and_that_of_the_same_one_is(here, capsys):
    assert run("build_index", "--num-workers", 1) == 0
    index = here / "artifacts/dataset_index.csv"
    write_exam(here / "other", "2024-02-01", "700001", number=3)
    (here / "other.csv").write_text("检查号,左侧诊断-训练,右侧诊断-训练\n700001,5,1\n", encoding="utf-8")
    other = ("build_index", "--num-workers", 1, "--dicom-base", "other", "--xlsx-path", "other.csv")
    before = contents(here / "artifacts")
    capsys.readouterr()
    assert run(*other) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{index.relative_to(here)}: is the index of 12 other exams" in said and "name another --out-csv" in said
    assert contents(here / "artifacts") == before
    assert run(*other, "--out-csv", "artifacts/other.csv") == 0
    shutil.copytree(here / "data/medical_data_2", here / "more/moved")
    write_exam(here / "more", "2024-02-01", "700001", number=3)
    sheet = pd.read_excel(here / "metadata/labels.xlsx", dtype=str, keep_default_na=False)
    new = pd.DataFrame([["700001", "2024-02-01", "5", "1"]], columns=sheet.columns)
    pd.concat([sheet, new]).to_csv(here / "longer.csv", index=False)
    assert run("build_index", "--num-workers", 1, "--xlsx-path", "longer.csv", "--dicom-base", "more") == 0
    assert set(tables.INDEX.read(index).exam_id) >= {"700001", "000000"}
    assert run("build_index", "--num-workers", 1) == 0


def test_an_index_without_an_exam_makes_no_manifest(here, capsys):
    tables.INDEX.write(here / "artifacts/dataset_index.csv", tables.INDEX.empty())
    assert run("build_manifest_ears", "--num-workers", 1) == 2
    assert "artifacts/dataset_index.csv: holds no exam" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["elsewhere", "data"])
def test_a_base_folder_without_the_exams_of_the_index_is_named_and_an_earlier_manifest_stays(here, capsys, wrong):
    to_splits()
    (here / "elsewhere").mkdir(exist_ok=True)
    before = contents(here / "artifacts")
    capsys.readouterr()
    assert run("build_manifest_ears", "--num-workers", 1, "--dicom-base", wrong) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    folder = tables.INDEX.read(here / "artifacts/dataset_index.csv").exam_relpath[0]
    assert f"--dicom-base {wrong}: holds none of the 12 exam folders" in said and f"like {folder!r}" in said
    assert ("it is empty" if wrong == "elsewhere" else "the first entry here is 'medical_data_2'") in said
    assert contents(here / "artifacts") == before


def test_a_manifest_that_would_hold_no_ear_does_not_replace_an_earlier_one(here, capsys):
    to_splits()
    index = tables.INDEX.read(here / "artifacts/dataset_index.csv")
    tables.INDEX.write(here / "artifacts/dataset_index.csv", index.assign(series_relpath=index.exam_relpath + "/gone"))
    before = contents(here / "artifacts")
    capsys.readouterr()
    assert run("build_manifest_ears", "--num-workers", 1) == 2
    assert "would hold no ear: 12 missing_series (first 0000" in capsys.readouterr().err
    assert contents(here / "artifacts") == before


def test_a_manifest_of_another_index_is_refused_and_missing_exams_cause_a_warning(here, capsys):
    to_splits()
    path, splits = here / "artifacts/manifest_ears.csv", ("--splits-root", "artifacts/splits_dual_patient")
    manifest = tables.MANIFEST.read(path)
    tables.MANIFEST.write(path, manifest[~manifest.exam_id.isin(["000000", "000001"])])
    capsys.readouterr()
    assert run("check_patient_leakage") == 0 and "2 exams of these splits are not in" in capsys.readouterr().err
    assert run("build_cache_ears", *splits, *SPEC_FLAGS, "--num-workers", 1) == 0
    assert "lacks 2 of the" in (said := capsys.readouterr().err) and "000000, 000001" in said
    tables.MANIFEST.write(path, manifest.assign(exam_id="9" + manifest.exam_id))
    for words in (("check_patient_leakage",), ("build_cache_ears", *splits, *SPEC_FLAGS)):
        assert run(*words) == 2
        assert "it belongs to another index" in capsys.readouterr().err


CACHE = ("build_cache_ears", "--splits-root", "artifacts/splits_dual_patient", *SPEC_FLAGS, "--num-workers", 1)


def index_again(*words):
    assert run("build_index", "--num-workers", 1, *words) == 0 and run("build_manifest_ears", "--num-workers", 1) == 0


def said_by(capsys, *words):
    """Status, output and errors of a command."""
    capsys.readouterr()
    status = run(*words)
    return status, *capsys.readouterr()


def test_after_other_series_rules_what_reads_the_cache_refuses_it_and_the_builder_cuts_it_anew(here, capsys):
    to_splits()
    assert run(*CACHE) == 0
    (here / "rules.toml").write_text('[refuse]\nkernel = "^U75"\n')
    index_again("--series-rules", "rules.toml")
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").set_index(["exam_id", "side"])
    assert manifest.series_relpath.str.endswith("/soft").all()

    train = ("train_ear2d", "--splits-root", "artifacts/splits_dual_patient", "--pct", 100, "--backbone", "test_resnet",
             "--device", "cpu")
    status, _, err = said_by(capsys, *train)
    assert status == 2 and "ears were not cut from the series that are wanted now" in err and not list(here.glob("outputs/*"))
    assert err.splitlines()[-1].endswith("scripts/build_cache_ears.py --splits-root artifacts/splits_dual_patient "
                                         "--num-slices 4 --image-size 32 --crop-mm 40.0")
    status, _, err = said_by(capsys, "qa_cache_ears")
    assert status == 2 and "0 are damaged, 22 were cut from other series" in err
    status, _, err = said_by(capsys, "check_patient_leakage")
    assert status == 0 and "22 of 22 cached ears" in err         # it stands before the cache in the route: it goes on without

    status, out, _ = said_by(capsys, *CACHE, "--limit", 3, "--verify")
    assert status == 0 and "0 were damaged" in out and "6 cached ears were not cut from" in out and "6 made" in out
    status, out, _ = said_by(capsys, "qa_cache_ears")
    rejects = tables.REJECTS.read(here / "artifacts/qa_ears/qa_ears_rejects.csv")
    assert status == 3 and (rejects.reason == "stale_entry").sum() == 16 and "/bone, expected" in rejects.detail.iloc[-1]
    status, out, _ = said_by(capsys, *CACHE)
    assert status == 0 and "22 ears wanted: 6 were there, 16 made, 0 rejected" in out
    store = choose_store(here / "cache/ears_hu", None)
    for ear in tables.CACHE_INDEX.read(store.folder / "index.csv").itertuples():
        facts, row = store.read_facts(ear.exam_id, Side(ear.side)), manifest.loc[(ear.exam_id, ear.side)]
        assert (facts["series_relpath"], facts["source"]) == (row.series_relpath, row.series_digest)
    assert said_by(capsys, *CACHE)[1].startswith("22 ears wanted: 22 were there, 0 made")


def test_an_exam_that_is_exported_again_or_moved_is_cut_anew_also_outside_the_split(here, hospital, capsys):
    (here / "data").unlink()
    shutil.copytree(hospital / "data", here / "data")
    base = here / "data/medical_data_2"
    to_splits()
    assert run(*CACHE) == 0
    unlabelled = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").query("exam_id == '000003'")
    store = choose_store(here / "cache/ears_hu", None)
    assert fill_store(store, unlabelled, dicom_base=base, workers=1, label="ears").made == 2
    write_exam(base, "2023-01-06", "000005", number=55)          # the same names, sizes and UIDs
    (base / "2023-01-03/000002/bone").rename(base / "2023-01-03/000002/moved")
    (base / "wrapper/2023-01-04/000003/bone").rename(base / "wrapper/2023-01-04/000003/moved")
    index_again()
    status, out, _ = said_by(capsys, *CACHE)
    assert status == 0 and "24 ears wanted: 18 were there, 6 made, 0 rejected" in out
    assert "6 cached ears were not cut from" in out and "000002 left: cut from 2023-01-03/000002/bone" in out
    assert said_by(capsys, *CACHE)[1].startswith("22 ears wanted: 22 were there, 0 made")


@pytest.mark.parametrize(("words", "says"), [
    (("build_index", "--xlsx-path", "metadata"), "metadata: is a folder: name the file in it"),
    (("build_index", "--xlsx-path", "none.xlsx"), "none.xlsx: no such file"),
    (("build_index", "--xlsx-path", "metadata/Label.xlsx"), "no such file; near names: metadata/labels.xlsx"),
    (("build_index", "--dicom-base", "nowhere"), "--dicom-base nowhere"),
    (("build_index", "--dicom-base", "data/medical_data"), "no such folder; near names: data/medical_data_2"),
    (("build_index", "--dicom-base", "metadata/labels.xlsx"), "is a file, expected a folder"),
    (("build_index", "--dicom-base", "metadata"), "holds no <YYYY-MM-DD>/<exam_id>/"),
    (("build_manifest_ears", "--index-csv", "none.csv"), "none.csv: no such file"),
    (("check_patient_leakage",), "artifacts/manifest_ears.csv: no such file"),
    (("make_splits_dual", "--val-ratio", "1.5"), "--val-ratio: got 1.5"),
    (("make_splits_dual", "--ratios", "a,b"), "--ratios"),
    (("build_cache_ears", "--pct", "7"), "--pct 7"),
    (("build_cache_ears", "--num-slices", "0"), "--num-slices: got 0"),
    (("build_cache_ears", "--sampling", "odd"), "--sampling"),
])
def test_wrong_input_is_one_line_with_status_2(here, capsys, words, says):
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1

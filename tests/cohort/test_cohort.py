"""The labelled ears, set by set: figures equal those computed by hand, and every planted fault is found."""
import base64
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from scipy.stats.contingency import association as cramers_v

from medical_fenlei import tables
from medical_fenlei.cohort.findings import association, list_findings
from medical_fenlei.cohort.groupings import Grouping, first_exam_per_patient, group_by_date, labelled_ears
from medical_fenlei.cohort.summaries import age_and_sex, count_classes, scan_numbers

EXAMS = 240
SETS = {"train": slice(0, 140), "tune": slice(140, 160), "val": slice(160, 240)}


def manifest_of(exams=EXAMS, **changes):
    """Both ears of each exam, in which nothing goes with the label or with the sets; changes: columns by exam."""
    turn = np.arange(exams)
    frame = pd.DataFrame({
        "exam_id": [f"{n:05d}" for n in turn], "date": "2020-01-01", "label_date": "2020-01-01", "date_match": turn % 3 == 0,
        "series_relpath": "x", "n_instances": 170, "patient_key": [f"p{n}" for n in turn], "patient_key_source": "patient_id",
        "manufacturer": np.where(turn % 4 < 3, "Siemens", "GE"), "model": "m", "kernel": np.where(turn % 4 < 3, "U75u", "BONE"),
        "transfer_syntax": "1.2", "rows": 512, "columns": 512, "pixel_spacing_mm": 0.4 + turn % 5 / 100,
        "slice_thickness_mm": 0.6, "slice_increment_mm": 0.5, "age_years": 20 + turn % 50, "sex": np.where(turn % 2, "F", "M"),
        "kvp": 120.0, "study_key": [f"s{n}" for n in turn],
    }).assign(**changes)
    codes = np.random.default_rng(0).integers(1, 7, (exams, 2))
    ears = pd.concat([frame.assign(side=side, label_code=codes[:, e]) for e, side in enumerate(("left", "right"))])
    ears = ears.sort_values(["exam_id", "side"], ignore_index=True)
    return tables.MANIFEST.frame(ears.join(tables.task_columns(ears.label_code)))


def found_in(manifest):
    ears = labelled_ears(manifest)
    exams = ears.exam_id.unique()
    split = Grouping("split", {name: ears[ears.exam_id.isin(exams[part])] for name, part in SETS.items()})
    return list_findings(ears, group_by_date(ears), [split])


def kinds(manifest, kind):
    return [finding.text for finding in found_in(manifest) if finding.kind == kind]


def test_a_clean_cohort_has_findings_about_small_sets_only():
    assert {finding.kind for finding in found_in(manifest_of())} <= {"few ears"}


def planted(where, value, otherwise):
    return np.where(where, value, otherwise)


TURN = np.arange(EXAMS)


@pytest.mark.parametrize(("changes", "kind", "says"), [
    ({"kernel": planted((TURN > 100) & (TURN < 106), "RARE", "U75u")}, "missing in a set",
     "kernel RARE: 5 exams in train (4%), none in val"),
    ({"manufacturer": planted(TURN > 200, "Philips", "GE")}, "missing in a set", "manufacturer Philips: 39 exams in val, none"),
    ({"slice_thickness_mm": planted(TURN == 7, 2.0, 0.6)}, "unusual scan",
     "slice_thickness_mm: 1 of 240 exams outside 0.3 to 1.25 (2 to 2), e.g. 00007"),
    ({"slice_increment_mm": planted(TURN < 3, 0.8, 0.6)}, "unusual scan", "farther apart than thick in 3 of 240"),
    ({"kvp": planted(TURN < 24, np.nan, 120)}, "missing values", "kvp: unknown for 48 of 480 ears (10%)"),
    ({"sex": ""}, "missing values", "sex: unknown for 480 of 480 ears (100%); a manifest of an earlier version"),
    ({"age_years": planted(TURN >= 160, 70, 30)}, "groups differ", "split: age_years: median 30 of train, 70 of val"),
    ({"sex": planted(TURN >= 160, "F", planted(TURN % 2, "F", "M"))}, "groups differ", "split: sex"),
    ({"kernel": planted(TURN % 3 == 0, "B60", "U75u")}, "groups differ",
     "date: kernel B60: 100% of same date, 0% of another date"),
    ({"age_years": planted(TURN < 12, 6, 40)}, "children", "12 of 240 exams"),
    ({"patient_key_source": planted(TURN < 9, "exam_id", "patient_id")}, "unknown patients", "9 of 240 exams"),
])
def test_planted_faults_are_found_with_their_figures(changes, kind, says):
    assert any(says in text for text in kinds(manifest_of(**changes), kind)), found_in(manifest_of(**changes))


def test_a_kernel_that_reveals_the_class_is_found_twice():
    manifest = manifest_of()
    of_code = manifest[manifest.label_code == 2].exam_id.unique()[:12]
    manifest.loc[manifest.exam_id.isin(of_code), ["kernel", "label_code"]] = ["SPECIAL", 2]
    text, = kinds(manifest, "one class only")
    assert text.startswith("kernel SPECIAL: all 24 ears of 12 exams have code 2") and "of all ears" in text
    assert any(text.startswith("kernel: Cramér's V with the code") for text in kinds(manifest, "goes with the label"))


def test_a_kernel_of_one_exam_is_not_evidence():
    manifest = manifest_of()
    manifest.loc[manifest.exam_id == "00000", ["kernel", "label_code"]] = ["ONCE", 2]
    assert not kinds(manifest, "one class only")


def test_a_class_with_few_ears_is_counted_in_every_set():
    manifest = manifest_of()
    rest = manifest[manifest.label_code == 4].index[3:]
    manifest.loc[rest, "label_code"] = 5
    counted = {text.split(": ")[1].split(" has")[0]: text for text in kinds(manifest, "few ears")}
    assert set(counted) == set(SETS)
    for name, part in SETS.items():
        exams = manifest.exam_id.unique()[part]
        number = ((manifest.label_code == 4) & manifest.exam_id.isin(exams)).sum()
        assert f"{number or 'none'} of code 4 (cholesterol granuloma)" in counted[name]


def test_shares_and_quantiles_equal_those_computed_by_hand():
    ears = labelled_ears(manifest_of(slice_thickness_mm=planted(TURN % 2, 0.4, 1.0)))
    dates = group_by_date(ears)
    numbers = scan_numbers([dates]).set_index(["group", "parameter"])
    own = numbers.loc[("same date", "slice_thickness_mm")]
    assert (own.exams, own.missing, own["median"], own["min"], own.p90) == (80, 0, 0.7, 0.4, 1.0)
    classes = count_classes(ears, [dates]).set_index(["by", "value", "label_code"])
    assert classes.loc[("thickness", "below 0.5 mm", 1), "ears"] == (
        (ears.slice_thickness_mm == 0.4) & (ears.label_code == 1)).sum()
    assert classes.ears.loc["side"].sum() == len(ears) and classes.share.loc["all"].sum() == pytest.approx(1)
    people = age_and_sex([dates]).set_index("group")
    assert people.patients.sum() == EXAMS and (people.sex_F + people.sex_M == people.patients).all()


def test_a_patient_counts_once_with_the_first_exam():
    manifest = manifest_of(patient_key="one", date=[f"2020-01-{1 + (n + 5) % 28:02d}" for n in range(EXAMS)])
    first, = first_exam_per_patient(manifest).itertuples()
    assert first.date == manifest.date.min()
    assert age_and_sex([group_by_date(manifest)]).patients.tolist() == [1, 1]


def test_cramers_v_equals_that_of_scipy_apart_from_the_bias_correction():
    rng = np.random.default_rng(0)
    a = pd.Series(rng.integers(0, 3, 20000))
    b = pd.Series(np.where(rng.random(20000) < 0.3, a, rng.integers(0, 3, 20000)))
    strength, chance = association(a, b)
    assert strength == pytest.approx(cramers_v(pd.crosstab(a, b)), abs=2e-3) and chance < 1e-9
    small = [association(pd.Series(rng.integers(0, 3, 60)), pd.Series(rng.integers(0, 5, 60)))[0] for _ in range(200)]
    assert np.median(small) < 0.05                               # uncorrected it would be 0.26
    assert np.isnan(association(a, pd.Series(np.zeros(20000)))).all()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = manifest_of(60)
    manifest.loc[manifest.exam_id == "00003", "kernel"] = "<b>&$x_1$"
    manifest.loc[manifest.index[:4], "label_code"] = 0
    tables.MANIFEST.write(tmp_path / "artifacts/manifest_ears.csv", manifest)
    exams = manifest.drop_duplicates("exam_id").assign(
        ambiguous_match=False, exam_relpath="x", left_code=5, right_code=1, series_reason="")
    exams = tables.SPLIT.frame(exams[list(tables.SPLIT.columns)])
    for folder, fitted in (("splits_dual_patient/20pct", 9), ("splits_dual_patient/100pct", 40), ("splits_dual/100pct", 30)):
        tables.SPLIT.write(tmp_path / "artifacts" / folder / "train.csv", exams[:fitted])
        tables.SPLIT.write(tmp_path / "artifacts" / folder / "val.csv", exams[40:])
    return tmp_path


def test_the_command_writes_tables_and_a_self_contained_page(here, capsys):
    assert run("qa_manifest_ears") == 0
    out = here / "artifacts/qa_manifest"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(pictures) == 7 and all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert "&lt;b&gt;&amp;$x_1$" in page and "<b>&" not in page
    assert "unusual scan" not in page and "<td>few ears</td>" in page
    for stem, table in (("scan_numbers", tables.QA_SCAN_NUMBERS), ("scan_names", tables.QA_SCAN_NAMES),
                        ("classes", tables.QA_CLASSES), ("people", tables.QA_PEOPLE), ("missing_values", tables.QA_MISSING)):
        assert len(table.read(out / f"{stem}.csv")), stem
    classes = tables.QA_CLASSES.read(out / "classes.csv")
    assert {"splits_dual", "splits_dual_patient"} < set(classes.by) and "train, 20 %" in set(classes.value)
    found = tables.QA_FINDINGS.read(out / "findings.csv")
    said = capsys.readouterr().out
    assert all(f"{row.kind}: {row.text}" in said for row in found.itertuples())
    assert f"{len(found)} findings deserve a look" in said


def test_a_manifest_of_an_earlier_version_before_any_split_has_a_page_too(here):
    old = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").drop(columns=list(tables.SUBGROUP_FACTS))
    tables.MANIFEST.write(here / "old.csv", old)
    for root in list((here / "artifacts").glob("splits*")):
        shutil.rmtree(root)
    assert run("qa_manifest_ears", "--manifest-csv", "old.csv", "--out-dir", "qa") == 0
    assert "age_years: unknown for 116 of 116 ears (100%); a manifest of an earlier version lacks it" in (
        here / "qa/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "says"), [
    (("--manifest-csv", "none.csv"), "none.csv: no such file"),
    (("--splits-root", "nowhere"), "--splits-root nowhere: holds no <pct>pct/train.csv"),
    (("--manifest-csv", "unlabelled.csv"), "none of its 120 ears has a label"),
])
def test_wrong_input_is_one_line(here, capsys, words, says):
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").assign(label_code=np.int8(0))
    tables.MANIFEST.write(here / "unlabelled.csv", manifest)
    assert run("qa_manifest_ears", *words) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_findings_count_one_exam_and_no_ear_in_plain_english():
    manifest = manifest_of()
    manifest.loc[manifest.exam_id == "00160", "manufacturer"] = "Once"
    manifest.loc[manifest.label_code == 4, "label_code"] = 5
    assert any("Once: 1 exam in val, none in train" in text for text in kinds(manifest, "missing in a set"))
    few = kinds(manifest, "few ears")
    assert few and all("none of code 4" in text and "only 0" not in text for text in few)

"""Exams in a folder of any layout: which files belong together, how the exam is named, and that no patient is."""
import shutil

import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_volume

from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.dicom.identity import Identity
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.exams import find_loose_exams, refuse_several_patients
from medical_fenlei.ingest.redaction import Redactor
from medical_fenlei.ingest.series_rules import SeriesRules

SHAPE, SPACING = (10, 24, 24), (1.0, 8.0, 8.0)


def write(folder, study, patient="P123", **more):
    """A series that can be used, of this study and patient."""
    header = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.{more.pop('series', 1)}",
              "PatientID": patient, "PatientName": f"Somebody^{patient}", "PatientBirthDate": "19340217",
              "StudyDate": "20200102", **more}
    files = write_volume(folder, head(SHAPE), axial(SHAPE, SPACING), SeriesFormat(attributes=header))
    for path in files:                                           # flat layouts hold files of several exams side by side
        path.rename(path.with_name(f"{study}_{more.get('ConvolutionKernel', '')}_{path.name}"))


def found(base):
    exams, strays = find_loose_exams(base, rules=SeriesRules(), workers=1)
    return {exam.exam_id: exam for exam in exams}, strays


def chosen(exam):
    return [series.relpath for series in exam.choice.chosen.series]


@pytest.mark.parametrize("layout", [
    "2020-01-02/{0}/bone", "export/2020-01-02/{0}/bone", "{0}", "a/b/{0}/1/2", "export/{0}/series"])
def test_an_exam_is_called_by_its_own_folder_wherever_its_files_lie(tmp_path, layout):
    for exam in ("0017", "0018"):
        write(tmp_path / layout.format(exam), exam.lstrip("0"), patient=f"P{exam}7")
    exams, strays = found(tmp_path)
    above = layout.partition("{0}")[0].replace("/", "_") if "2020" not in layout else ""
    assert list(exams) == [f"{above}0017", f"{above}0018"]
    assert strays == []


def test_a_folder_of_files_alone_is_an_exam_called_by_it(tmp_path):
    write(tmp_path / "case 7", 1)
    exams, _ = found(tmp_path / "case 7")
    assert list(exams) == ["case_7"] and chosen(exams["case_7"]) == ["."]


def test_series_of_a_study_go_together_and_the_bone_kernel_is_chosen(tmp_path):
    write(tmp_path / "e/soft", 1, series=1, ConvolutionKernel="H31s")
    write(tmp_path / "e/bone", 1, series=2)
    exams, _ = found(tmp_path)
    assert list(exams) == ["e"] and chosen(exams["e"]) == ["e/bone"] and len(exams["e"].choice.verdicts) == 2


def test_studies_in_one_folder_are_exams_of_their_own(tmp_path):
    write(tmp_path / "all", 1)
    write(tmp_path / "all", 2)
    exams, _ = found(tmp_path)
    assert list(exams) == ["all", "all_2"] and chosen(exams["all"]) != chosen(exams["all_2"])


def test_two_patients_under_one_study_are_two_exams(tmp_path):
    write(tmp_path / "x/one", 1, patient="P123", series=1)
    write(tmp_path / "x/two", 1, patient="P456", series=2)
    assert list(found(tmp_path)[0]) == ["x_one", "x_two"]


def test_two_patients_within_one_series_are_noticed(tmp_path):
    write(tmp_path / "x", 1)
    files = sorted((tmp_path / "x").iterdir())
    ds = pydicom.dcmread(files[-1])
    ds.PatientID = "P999"
    ds.save_as(files[-1])
    assert found(tmp_path)[0]["x"].several_patients
    for path, patient in ((files[-1], "P123"), (files[4], "P999")):                         # hidden in its middle
        refuse_several_patients(headers_in(files[:4]))
        ds = pydicom.dcmread(path)
        ds.PatientID = patient
        ds.save_as(path)
    assert found(tmp_path)[0]["x"].several_patients
    with pytest.raises(Exception, match="several_patients"):
        refuse_several_patients(headers_in(files))


def headers_in(files):
    reader = HeaderReader()
    return [header for path in files for header in reader.read(path)]


def test_without_a_study_uid_folders_separate_exams(tmp_path):
    for folder in ("a/s1", "a/s2", "b/s1"):
        write(tmp_path / folder, 1, StudyInstanceUID="", SeriesInstanceUID=f"1.2.{folder[-1]}{ord(folder[0])}")
    assert list(found(tmp_path)[0]) == ["a", "b"]


def test_a_series_that_continues_in_another_folder_is_reported(tmp_path):
    write(tmp_path / "e/one", 1)
    (tmp_path / "e/two").mkdir()
    for path in sorted((tmp_path / "e/one").iterdir())[5:]:
        path.rename(tmp_path / "e/two" / path.name)
    assert [reason for _, reason, _ in found(tmp_path)[0]["e"].problems] == ["split_series"]
    shutil.rmtree(tmp_path / "e/two")
    shutil.copytree(tmp_path / "e/one", tmp_path / "e/copy")
    assert found(tmp_path)[0]["e"].problems == ()


def test_a_file_that_is_not_an_image_is_reported_with_its_exam(tmp_path):
    write(tmp_path / "e", 1)
    (tmp_path / "e/notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    exams, strays = found(tmp_path)
    assert exams["e"].problems[0][:2] == ("e/notes.txt", "not_dicom")
    assert [stray[:2] for stray in strays] == [("README", "not_dicom")]


@pytest.mark.parametrize("folder", ["P12345", "somebody_else", "MEIER^ANNA", "born 1934-02-17", "scan_20200102", "17.02.1934"])
def test_a_folder_that_names_its_patient_or_a_day_does_not_name_the_exam(tmp_path, folder):
    write(tmp_path / folder / "bone", 1, patient="P12345", PatientName="Meier^Anna=Somebody")
    (tmp_path / folder / "bone/P12345.txt").write_text("x")
    exams, strays = found(tmp_path)
    exam, = exams.values()
    told = repr((exam.exam_id, exam.problems, strays, exam.shown_name(exam.choice.verdicts[0][0])))
    for word in ("12345", "somebody", "meier", "anna", "1934", "20200102"):
        assert word not in told.lower()


def test_a_short_name_is_redacted_by_itself_and_not_within_words():
    redactor = Redactor([Identity("", "", "Li^Wu", "")])
    assert redactor.hide("li/slices_of_li, wuhan") == "…/slices_of_…, wuhan" and "Li" not in repr(redactor)
    assert Redactor([Identity("", "", "金丝雀^李", "")]).hide("x金丝雀y") == "x…y"


JOINED = Redactor([Identity("", "", "Meier^Anna", "19340217"), Identity("", "", "Li^Wu", "20010305")], ["20200102"])


@pytest.mark.parametrize("text", [
    "MeierAnna3", "ANNAMEIER_2", "xmeieranna", "LiWu2", "CTliwu", "wuli07", "Li2", "LiW", "1934-2-17", "1934217", "17.2.1934",
    "2/17/1934", "17-2-34", "340217", "170234", "17Feb1934", "2001_3_5", "5.3.01", "2001年3月5日", "2020-1-2", "2.1.2020"])
def test_names_and_dates_are_hidden_however_they_are_joined_and_written(text):
    assert not set(JOINED.hide(f"scan-{text}")) - set("scan-…xCT0237_日") and JOINED.finds(text)


@pytest.mark.parametrize("text", ["slices", "wuhan", "lithium", "series 17", "193402", "1.2.34", "340218", "171 slices"])
def test_words_and_numbers_that_name_nobody_stay(text):
    assert JOINED.hide(text) == text and not JOINED.finds(text)


def write_name(folder, raw, charset, study=1, **more):
    """A series whose PatientName has these bytes, under this declaration; None for no declaration."""
    mark = "Q" * (len(raw) + len(raw) % 2)
    write(folder, study, PatientName=mark, **({"SpecificCharacterSet": charset} if charset else {}), **more)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(mark.encode(), raw.ljust(len(mark))))


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192", "GB18030"])
@pytest.mark.parametrize(("name", "encoding", "folder"), [
    ("合成甲", "gbk", "合成甲_CT1001"), ("合成^甲", "gb18030", "CT1001-合成甲"), ("王^小明", "big5", "王 小明_CT1001"),
    ("合成^甲", "utf-8", "CT1001 甲合成"), ("Jörg^Müller", "latin_1", "Mu\u0308ller_CT1001_jo\u0308rg"),
    ("李^雷", "gbk", "ＣＴ1001李雷"), ("合成甲", "gbk", "合成甲_CT1001".encode("gbk").decode("cp437")),
    ("合成甲", "gbk", "合成甲_CT1001".encode("gbk").decode("latin_1")),
    ("合成甲", "gbk", "合成甲_CT1001".encode("gbk").decode("utf-8", "surrogateescape"))])
def test_a_name_in_an_undeclared_character_set_is_hidden_as_if_declared(tmp_path, name, encoding, folder, charset):
    write_name(tmp_path / folder / "bone", name.encode(encoding), charset)
    (tmp_path / folder / "bone/notes.txt").write_text("x")
    exams, strays = found(tmp_path)
    exam, = exams.values()
    told = ascii((exam.exam_id, exam.problems, strays, exam.shown_name(exam.choice.verdicts[0][0])))
    assert exam.exam_id in ("CT1001", "ＣＴ1001")
    for part in (name, folder.replace("CT1001", "").strip("-_ ")):
        assert not any(ascii(letter)[1:-1] in told for letter in part if not letter.isascii() and letter not in "ＣＴ…")
    assert "ller" not in told and "rg" not in told


@pytest.mark.parametrize("folder", [
    "hechengbing_CT1003", "HE_CHENG-BING CT1003", "CT1003.chengbinghe", "0012345_CT1003", "12345-CT1003"])
def test_a_name_run_together_or_spaced_and_an_id_with_other_zeros_are_hidden(tmp_path, folder):
    write(tmp_path / folder, 1, patient="012345", PatientName="HE CHENGBING")
    assert list(found(tmp_path)[0]) == ["CT1003"]


def test_series_of_one_patient_in_two_character_sets_are_one_exam(tmp_path):
    write_name(tmp_path / "e/one", "合成甲".encode("gbk"), None, patient="")
    write_name(tmp_path / "e/two", "合成^甲".encode(), "ISO_IR 192", patient="", series=2)
    assert list(found(tmp_path)[0]) == ["e"]


def test_the_stamp_changes_with_the_files_and_with_nothing_else(tmp_path):
    write(tmp_path / "e", 1)
    before = found(tmp_path)[0]["e"].stamp
    write(tmp_path / "other", 2)
    assert found(tmp_path)[0]["e"].stamp == before
    next((tmp_path / "e").iterdir()).touch()
    assert found(tmp_path)[0]["e"].stamp != before


def test_a_folder_without_an_image_is_one_line_that_says_what_is_there(tmp_path):
    with pytest.raises(UserError, match="no file"):
        found(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="not_dicom"):
        found(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        found(tmp_path / "none")

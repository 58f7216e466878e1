"""Names in character sets that are declared, declared wrong, or not declared at all."""
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume

from medical_fenlei.dicom.charsets import is_plausible, readings
from medical_fenlei.dicom.header import read_header
from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.dicom.identity import read_identity

SHAPE = (1, 8, 8)
MARK = "QQQQQQQQQQQQ"


def write(folder, name, encoding, charset):
    """An image whose PatientName has these bytes, and whose SpecificCharacterSet is this one; None for no such element."""
    more = {"PatientName": MARK} | ({"SpecificCharacterSet": charset} if charset else {})
    path, = write_volume(folder, np.zeros(SHAPE, int), axial(SHAPE), SeriesFormat(attributes=more))
    path.write_bytes(path.read_bytes().replace(MARK.encode(), name.encode(encoding).ljust(len(MARK))))
    return path


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "GB18030", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
@pytest.mark.parametrize(("name", "encoding"), [
    ("合成^甲", "gb18030"), ("合成^甲", "utf-8"), ("王^小明", "big5"), ("朱镕基", "gbk"), ("王芳A", "gbk")])
def test_a_chinese_name_is_among_the_readings_whatever_is_declared(tmp_path, name, encoding, charset):
    identity = read_identity(write(tmp_path, name, encoding, charset))
    assert name in (identity.name, *identity.other_names) and "Q" not in repr(identity)


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192"])
def test_a_german_name_is_not_taken_for_chinese(tmp_path, charset):
    assert read_identity(write(tmp_path, "Jörg^Müller", "latin_1", charset)).name == "Jörg^Müller"


@pytest.mark.parametrize(("name", "encoding", "charset"), [
    ("联通", "gbk", "GB18030"), ("茂源", "gbk", "GB18030"), ("合成", "utf-8", "GB18030"), ("Müller", "utf-8", "ISO_IR 100"),
    ("Иванов", "iso8859_5", "ISO_IR 144"), ("김희중", "euc_kr", "ISO 2022 IR 149"), ("合成甲", "gbk", "ISO_IR 100")])
def test_the_likely_reading_comes_first(name, encoding, charset):
    assert readings(name.encode(encoding), [charset])[0] == name


@pytest.mark.parametrize("declared", [(), ("", "ISO 2022 IR 149", "ISO 2022 IR 87", "ISO 2022 IR 58")])
@pytest.mark.parametrize(("raw", "text"), [
    (b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
    (b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
    (b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东")])
def test_escape_sequences_are_followed_whether_declared_or_not(raw, text, declared):
    """The examples of DICOM PS3.5, annexes H, I and K."""
    assert readings(raw, declared)[0] == text


def test_bytes_of_no_character_set_are_read_all_the_same():
    assert readings(b"\x81\xff\xff", ["ISO_IR 192"])[0] == "\x81ÿÿ"
    assert readings("合成甲".encode("gbk"), ["GBK 18030"])[0] == "合成甲"
    assert readings(b"Meier^Anna \0") == ("Meier^Anna",) and readings(b"") == ("",)
    assert not is_plausible("ºÏ³É¼×") and is_plausible("Meier^Jörg=张^三")


def test_a_name_that_pydicom_has_parsed_before_is_one_text(tmp_path):
    path, = write_volume(tmp_path, np.zeros(SHAPE, int), axial(SHAPE), SeriesFormat(
        attributes={"PatientName": "Zhang^San=张^三", "SpecificCharacterSet": "GB18030", "PatientID": "编号7"}))
    assert str(pydicom.dcmread(path).PatientName) == read_identity(path).name == "Zhang^San=张^三"
    assert read_identity(path).patient_id == "编号7"


def test_images_share_a_mark_exactly_if_their_patient_is_stated_alike(tmp_path):
    files = write_volume(tmp_path, np.zeros((5, 8, 8)), axial((5, 8, 8)))
    for path, changes in zip(files[1:], ({"InstanceNumber": 9}, {"PatientName": "Some^Body"}, {"PatientBirthDate": ""}, {}),
                             strict=True):
        dataset = pydicom.dcmread(path)
        for name, value in changes.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    reader = HeaderReader()
    marks = [reader.read(path)[0].identity for path in files]
    assert marks[0] == marks[1] == marks[4] and len(set(marks)) == 3
    assert marks == [read_header(path).identity for path in files] and all(len(mark) == 16 for mark in marks)

"""A label sheet is read in every common notation, and every unusable cell is reported."""
import datetime
import io
import re
import shutil
import zipfile

import openpyxl
import pytest
from openpyxl.styles import numbers

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_cells import parse_code, parse_date, parse_exam_id
from medical_fenlei.ingest.label_sheet import WORKSHEET, only_sheet, read_label_sheet
from medical_fenlei.ingest.template_sheet import write_template

COLUMNS = ["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练", "影像所见", "检查结论"]
FOUND = "张三，左侧鼓室内见软组织影"
"""Stands for what must never leave the sheet."""
SHAPES = ["labels.xlsx", "labels.csv"]


def write_book(path, sheets):
    """sheets: rows by worksheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_sheet(path, rows, *, columns=COLUMNS, above=()):
    lines = [*above, columns, *rows]
    if path.suffix == ".xlsx":
        return write_book(path, {"说明": [["x"]], WORKSHEET: lines})
    path.write_text("\n".join(",".join("" if c is None else str(c) for c in row) for row in lines), encoding="utf-8")
    return path


def codes(sheet):
    return {row.exam_id: (row.left_code, row.right_code) for row in sheet.labels.itertuples()}


def reasons(sheet):
    return [r["reason"] for r in sheet.rejects]


@pytest.mark.parametrize(("cell", "code"), [
    ("5：正常", 5), ("5:正常", 5), (" 2 : 中耳胆脂瘤 ", 2), ("3", 3), ("3.0", 3), ("正常", 5), ("", 0), ("  ", 0), ("1：", 1),
    ("５：正常", 5), ("\u30005\u3000：\u00a0正常\u3000", 5), ("\ufeff5\u200b：正常", 5), ("5、正常", 5), ("5 正常", 5),
    ("5正常", 5), ("5∶正常", 5),
    (5, 5), (5.0, 5), ("５", 5), ("05", 5), (None, 0), ("\u3000", 0), ("normal", 5), ("Normal", 5), ("1：CSOM", 1),
    ("Chronic suppurative otitis media (CSOM)", 1), ("Middle ear cholesteatoma", 2), ("4: cholesterol granuloma", 4),
    ("6：其他（外耳道闭锁）", 6), ("3：渗出性中耳炎", 3), ("5：正 常", 5), ("5,0", 5),
    ("5：未见异常", 5), ("5：未见明显异常", 5), ("5：正常（未见异常）", 5), ("5：无异常", 5), ("5：no abnormality", 5),
    ("5：未见明确异常密度影", 5), ("未见异常", 5), ("无明显异常", 5), ("No abnormality", 5), ("no abnormality detected", 5),
    ("1：慢性化脓性中耳炎，余未见异常", 1), ("1：慢性化脓性中耳炎，乳突未见异常", 1),
])
def test_a_label_is_read_in_every_form_it_is_written(cell, code):
    assert parse_code(cell) == code


@pytest.mark.parametrize("cell", [
    "7：其他", "0", "正常？", "5：中耳胆脂瘤", "51", "左", 7, 0, 5.5, True, "#N/A", "1,2", "1：慢性化脓性中耳炎 2：中耳胆脂瘤",
    "5：正常？", "5：中耳胆脂瘤术后", "-5", "5级", datetime.datetime(2024, 5, 1), "2: normal",
    "1、2", "1+2", "1/2", "1和2", "1 2", "1：2", 1.2, "正常/异常", "5：未见异常？", "=VLOOKUP(A2,B:C,2,0)",
])
def test_an_invalid_or_contradictory_label_is_refused(cell):
    with pytest.raises(ValueError):
        parse_code(cell)


@pytest.mark.parametrize(("cell", "exam_id"), [
    ("00123", "00123"), (123, "123"), (123.0, "123"), ("123.0", "123"), (" 00123 ", "00123"), ("００１２３", "00123"),
    ("'00123", "00123"), ("＇00123", "00123"), ('="00123"', "00123"), ("\u200e00123\u202c", "00123"), ("\ufeff00123", "00123"),
    ("00 123", "00123"), ("\u300000123\u00a0", "00123"), ("CT-12 B", "CT-12 B"), ("12E4567", "12E4567"),
    ("00123,0", "00123"), ("123.00", "123"),
    ("1.2.840.0", "1.2.840.0"), (None, ""), (" ", ""), (120000000000.0, "120000000000"), (999999999999999, "999999999999999"),
])
def test_an_exam_id_is_text_whatever_excel_made_of_it(cell, exam_id):
    assert parse_exam_id(cell) == exam_id


@pytest.mark.parametrize("cell", [
    "1.2E+11", "1.2e+11", "1E+05", "１.２E+11", 1234567890123456, 1.2e16, 12.5, -3, True, datetime.datetime(2024, 1, 2),
    "#N/A", "#REF!", "00123\n00124", "1,2E+11", "1.2E11", "1,234", "1,234,567.00", "123.000", 0, "=A2",
])
def test_an_exam_id_that_may_have_lost_digits_is_refused(cell):
    with pytest.raises(ValueError):
        parse_exam_id(cell)


@pytest.mark.parametrize(("cell", "date"), [
    ("2023-05-07 10:11:12", "2023-05-07"), ("2023/5/7", "2023-05-07"), ("20230507", "2023-05-07"),
    ("20230507101112", "2023-05-07"), ("2023年5月7日", "2023-05-07"), ("2023年05月07日 上午8:30", "2023-05-07"),
    ("２０２３－５－７", "2023-05-07"), (20230507, "2023-05-07"),
    (datetime.datetime(2023, 5, 7, 8, 30), "2023-05-07"), (datetime.date(2023, 5, 7), "2023-05-07"), (45053, "2023-05-07"),
    (45053.354, "2023-05-07"), ("45053", "2023-05-07"), ("45053,354", "2023-05-07"),
    ("25.01.2020", "2020-01-25"), ("01/25/2020", "2020-01-25"),
    ("05.05.2020", "2020-05-05"), ("2020-01-05T08:30", "2020-01-05"), (None, ""), ("  ", ""),
])
def test_dates_in_every_form_they_are_written(cell, date):
    assert parse_date(cell) == date


@pytest.mark.parametrize("cell", [
    "2023-13-01", "2023-02-30", "soon", "05.01.2020", "1/5/2020", "20-1-5", 12, 1e9, datetime.time(8, 30), "#VALUE!",
    "0023-01-05", "99999",
])
def test_an_invalid_or_ambiguous_date_is_refused(cell):
    with pytest.raises(ValueError):
        parse_date(cell)


def test_numbers_count_days_in_the_date_system_of_the_file():
    assert parse_date(43591, datetime.date(1904, 1, 1)) == "2023-05-07"


@pytest.mark.parametrize("name", SHAPES)
def test_excel_and_csv_give_the_same(tmp_path, name):
    rows = [["00123", "2023-01-02", "5：正常", "2:中耳胆脂瘤", FOUND], ["00124", "2023-01-03", "", "9", FOUND],
            ["00123", "2023-01-02", "5", "2"], ["", "", "1"], ["00125", "", "1", "1"], ["00125", "", "1", "2"],
            ["00126", "soon", "5"]]
    sheet = read_label_sheet(write_sheet(tmp_path / name, rows))
    assert codes(sheet) == {"00123": (5, 2), "00124": (0, 0), "00125": (1, 0), "00126": (5, 0)}  # rows that disagree: no label
    assert sheet.labels.label_date.tolist() == ["2023-01-02", "2023-01-03", "", ""] and sheet.rows == 6
    assert reasons(sheet) == ["unparsable_label", "no_exam_id", "conflicting_label", "unparsable_date"]
    where = f"{name}, sheet {WORKSHEET}, row" if name.endswith("xlsx") else f"{name}, row"
    assert [r["file"] for r in sheet.rejects] == [f"{where} {n}" for n in (3, 5, 7, 8)]
    assert "'9'" in sheet.rejects[0]["detail"] and "'<4 letters>'" in sheet.rejects[3]["detail"]
    tables.REJECTS.write(tmp_path / "rejects.csv", tables.REJECTS.frame(sheet.rejects))
    assert "张三" not in (tmp_path / "rejects.csv").read_text() + str(sheet.labels) + str(sheet.rejects)


@pytest.mark.parametrize("name", SHAPES)
def test_a_cell_at_fault_is_quoted_to_30_characters(tmp_path, name):
    sheet = read_label_sheet(write_sheet(tmp_path / name, [["1", "", "炎" * 100, ""]]))
    assert f"'{'炎' * 30}'" in sheet.rejects[0]["detail"] and "炎" * 31 not in sheet.rejects[0]["detail"]


@pytest.mark.parametrize(("cells", "code"), [
    (["5", ""], 5), (["", "5"], 5), (["5", "5：正常"], 5), (["5", "1"], 0), (["5", "1", "5"], 0), (["", "5", "", "5.0"], 5),
    (["5", "9"], 0), (["9", "5"], 0), (["9", ""], 0), (["", ""], 0),
])
def test_an_empty_cell_contradicts_nothing_and_any_other_that_differs_does(tmp_path, cells, code):
    sheet = read_label_sheet(write_sheet(tmp_path / "a.xlsx", [["007", "", cell, "2"] for cell in cells]))
    assert codes(sheet) == {"007": (code, 2)} and sheet.rows == len(cells)
    assert bool(sheet.rejects) == (code == 0 and any(cells))


def test_an_id_that_excel_stored_as_a_number_is_what_excel_shows(tmp_path):
    path = write_sheet(tmp_path / "a.xlsx", [[cell, None, 5, 5] for cell in (123, 124.0, 1.2e16, "1.2E+11")])
    book = openpyxl.load_workbook(path)
    book[WORKSHEET]["A2"].number_format = "00000000"
    book.save(path)
    sheet = read_label_sheet(path)
    assert list(codes(sheet)) == ["00000123", "124"]
    assert reasons(sheet) == ["unparsable_exam_id"] * 2 and all("digits may be lost" in r["detail"] for r in sheet.rejects)


def test_dates_that_excel_stored_as_dates_or_numbers(tmp_path):
    rows = [["1", datetime.datetime(2020, 1, 5, 8, 30), 5, 5], ["2", 43835, 5, 5], ["3", 20200105, 5, 5], ["4", 4e9, 5, 5]]
    path = write_sheet(tmp_path / "a.xlsx", rows)
    book = openpyxl.load_workbook(path)
    book[WORKSHEET]["B5"].number_format = numbers.FORMAT_DATE_YYYYMMDD2          # beyond Excel's calendar: an error value
    book.save(path)
    sheet = read_label_sheet(path)
    assert sheet.labels.label_date.tolist() == ["2020-01-05"] * 3 + [""] and reasons(sheet) == ["unparsable_date"]
    book.epoch = openpyxl.utils.datetime.CALENDAR_MAC_1904
    book.save(tmp_path / "mac.xlsx")
    assert read_label_sheet(tmp_path / "mac.xlsx").labels.label_date[1] == "2024-01-06"          # 43,835 days after 1904-01-01


@pytest.mark.parametrize("name", SHAPES)
def test_the_header_is_found_below_titles_and_however_its_cells_are_spaced(tmp_path, name):
    columns = [" 检查号", "检查\u3000时间", "左侧诊断－训练\u200b", "右侧 诊断-训练"]
    above = [["某医院影像学检查导出"], [], ["", "2020年"]]
    sheet = read_label_sheet(write_sheet(tmp_path / name, [["1", "2020-01-05", 5, "x"]], columns=columns, above=above))
    assert codes(sheet) == {"1": (5, 0)} and sheet.rejects[0]["file"].endswith("row 5")
    assert sheet.labels.label_date[0] == "2020-01-05"


def test_a_header_of_two_rows_and_hidden_rows_and_columns_are_read(tmp_path):
    path = write_book(tmp_path / "a.xlsx", {WORKSHEET: [
        ["检查号", "检查时间", "诊断", None, "影像"], [None, None, "左侧诊断-\n训练", "右侧诊断-训练", "影像所见"],
        ["1", None, 5, 1, FOUND], ["2", None, 5, 2],
    ]})
    book = openpyxl.load_workbook(path)
    sheet = book[WORKSHEET]
    for cells in ("A1:A2", "B1:B2", "C1:D1"):
        sheet.merge_cells(cells)
    sheet.row_dimensions[3].hidden = sheet.column_dimensions["C"].hidden = True
    book.save(path)
    read = read_label_sheet(path)
    assert codes(read) == {"1": (5, 1), "2": (5, 2)} and not read.rejects


def test_rows_without_an_exam_are_not_faults(tmp_path):
    rows = [["1", "", 5, 5], [], COLUMNS, ["2", "", 5, 5], ["", "", "", "", "合计 2"]]
    sheet = read_label_sheet(write_sheet(tmp_path / "a.xlsx", rows))
    assert list(codes(sheet)) == ["1", "2"] and not sheet.rejects and sheet.rows == 2


def test_the_worksheet_of_the_right_name_wins_else_the_only_one_that_has_the_columns(tmp_path):
    one, other = [COLUMNS, ["1", "", 5, 5]], [COLUMNS, ["2", "", 5, 5]]
    read = read_label_sheet(write_book(tmp_path / "a.xlsx", {"Sheet1": other, f"{WORKSHEET} ": one}))
    assert list(codes(read)) == ["1"]
    read = read_label_sheet(write_book(tmp_path / "b.xlsx", {"说明": [["x"]], "Sheet1": other}))
    assert list(codes(read)) == ["2"] and read.worksheet == "Sheet1"
    with pytest.raises(UserError, match="2 hold its columns: rename the right one; found: '甲', '乙'"):
        read_label_sheet(write_book(tmp_path / "c.xlsx", {"甲": one, "乙": other}))
    with pytest.raises(UserError, match="none holds its columns; found: '甲', '乙'"):
        read_label_sheet(write_book(tmp_path / "d.xlsx", {"甲": [["x"]], "乙": []}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_in_every_encoding_and_with_every_delimiter(tmp_path, encoding, delimiter):
    rows = [COLUMNS, ["00123", "2020-01-05", "5：正常", "", f'"{FOUND}{delimiter}\n第二行"', ""], ["00124", "", "2", "1"]]
    (tmp_path / "a.csv").write_bytes("\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    sheet = read_label_sheet(tmp_path / "a.csv")
    assert codes(sheet) == {"00123": (5, 0), "00124": (2, 1)} and not sheet.rejects


def test_a_row_of_a_csv_whose_cells_are_shifted_is_left_out_and_reported(tmp_path):
    sheet = read_label_sheet(write_sheet(tmp_path / "a.csv", [["1", "", 5, 5, "a,b", "c"], ["2", "", 5, 5, "", "", "", ""]]))
    assert codes(sheet) == {"2": (5, 5)} and reasons(sheet) == ["shifted_row"]


def test_a_quotation_mark_that_is_never_closed_swallows_no_rows(tmp_path):
    with pytest.raises(UserError, match="row 3 or before is never closed"):
        read_label_sheet(write_sheet(tmp_path / "a.csv", [["1", "", 5, 5], ["2", "", 5, 5, '"见'], ["3", "", 5, 5]]))


def changed(path, before, after):
    """The bytes of a workbook with other XML in its last worksheet."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = max(name for name in parts if name.startswith("xl/worksheets/sheet"))
    assert re.search(before, parts[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for other, part in (parts | {name: re.sub(before, after, parts[name])}).items():
            archive.writestr(other, part)
    return buffer.getvalue()


def test_the_value_of_a_formula_is_what_excel_computed(tmp_path):
    path = write_sheet(tmp_path / "a.xlsx", [["1", "", "=2+3", 5]])
    path.write_bytes(changed(path, rb"(<f>2\+3</f>)<v ?/>", rb"\1<v>5</v>"))
    assert codes(read_label_sheet(path)) == {"1": (5, 5)}


def test_xml_entities_are_refused(tmp_path):
    path = write_sheet(tmp_path / "a.xlsx", [["1", "", 5, 5]])
    path.write_bytes(changed(path, rb"^", b'<!DOCTYPE s [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]>'))
    with pytest.raises(UserError, match=r"cannot be read as a label sheet \(EntitiesForbidden\)"):
        read_label_sheet(path)


def ole(word):
    """A file of Office before 2007, or one under a password."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500 + word.encode("utf-16-le")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.xlsx", ole("EncryptedPackage"), "password"), ("a.xlsx", ole("Workbook"), r"old \.xls format"),
    ("a.xls", ole("Workbook"), r"save it as \.xlsx"), ("a.xlsx", b"not a workbook", "cannot be read"),
    ("a.xlsx", b"PK\x03\x04 cut off", "cannot be read"), ("a.xlsx", b"", "is empty; copy it again"),
    ("a.csv", b"", "is empty"), ("a.csv", b"\xff\xff\x81", "neither UTF-8 nor GB18030"),
    ("a.csv", f"{FOUND},{FOUND}".encode(), "none of the first 20 rows"),
])
def test_a_file_that_cannot_be_read_is_one_line_that_says_what_to_do(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_label_sheet(tmp_path / name)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1 and "张三" not in str(caught.value)


def test_a_workbook_that_expands_too_far_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("medical_fenlei.ingest.workbook.LARGEST", 1000)
    with pytest.raises(UserError, match="unpacked"):
        read_label_sheet(write_sheet(tmp_path / "a.xlsx", []))


def test_a_missing_sheet_or_column_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_label_sheet(tmp_path / "none.xlsx")
    for name in SHAPES:
        with pytest.raises(UserError, match="'右侧诊断-训练' is missing; found: 检查号"):
            read_label_sheet(write_sheet(tmp_path / name, [], columns=[c for c in COLUMNS if not c.startswith("右")]))
        with pytest.raises(UserError, match="'左侧诊断-训练' occurs twice"):
            read_label_sheet(write_sheet(tmp_path / name, [], columns=[*COLUMNS, "左侧诊断-训练"]))
    with pytest.raises(UserError, match=r"expected one \.xlsx .*; move the sheet there, or name it with --xlsx-path FILE; b"):
        only_sheet(tmp_path / "none")


def test_the_only_sheet_of_a_folder_is_found_however_its_suffix_is_written(tmp_path):
    (tmp_path / "labels.xls").write_bytes(b"")
    with pytest.raises(UserError, match=r"expected one \.xlsx .*, found labels\.xls; name"):
        only_sheet(tmp_path)
    (tmp_path / "LABELS.XLSX").write_bytes(b"")
    assert only_sheet(tmp_path).name == "LABELS.XLSX"


def test_a_cell_is_quoted_without_words_that_no_diagnosis_has(tmp_path):
    cells = ["7：未知", "5：中耳胆脂瘤？", "张三", "2 or 3", "5：normal?"]
    sheet = read_label_sheet(write_sheet(tmp_path / "labels.csv", [[str(n), "", cell, ""] for n, cell in enumerate(cells)]))
    quoted = [reject["detail"].partition("got ")[2].partition(", ")[0] for reject in sheet.rejects]
    assert quoted == ["'7:<2 letters>'", "'5:中耳胆脂瘤?'", "'<2 letters>'", "'2 <2 letters> 3'", "'5:normal?'"]


@pytest.mark.parametrize("cell", ["4：胆脂瘤", "1：分泌性", "2：胆固醇", "3：化脓性中耳炎", "5：异常", "5：不正常",
                                  "5 : abnormal", "1：慢性化脓性中耳炎并胆脂瘤", "5：not normal", "5：余未见异常",
                                  "5：除乳突积液外，未见异常", "1：未见异常", "6：未见异常", "1：鼓室未见异常"])
def test_words_of_another_diagnosis_than_the_code_are_refused(cell):
    with pytest.raises(ValueError, match="disagree"):
        parse_code(cell)


@pytest.mark.parametrize("cell", ["2：无胆脂瘤", "2：未见明显胆脂瘤", "2：胆脂瘤可能", "2：不除外胆脂瘤", "1：非化脓性中耳炎",
                                  "5：无胆脂瘤", "2: no evidence of cholesteatoma", "3：suspected OME", "4：疑似胆固醇肉芽肿"])
def test_words_that_deny_or_doubt_the_diagnosis_of_the_code_are_refused(cell):
    with pytest.raises(ValueError, match="deny or doubt"):
        parse_code(cell)


@pytest.mark.parametrize(("cell", "code"), [("2：胆脂瘤", 2), ("3：分泌性", 3), ("6：其他（胆脂瘤术后）", 6), ("5：正常", 5)])
def test_words_of_the_diagnosis_of_the_code_are_accepted(cell, code):
    assert parse_code(cell) == code


# The template

def test_a_template_that_was_filled_in_is_read_with_leading_zeros_and_its_list_has_every_diagnosis(tmp_path):
    path = tmp_path / "metadata/template.xlsx"
    write_template(path)
    book = openpyxl.load_workbook(path)
    sheet = book["影像学检查"]
    choices, = sheet.data_validations.dataValidation
    diagnoses = choices.formula1.strip('"').split(",")
    assert len(choices.formula1) <= 255 and [parse_code(text) for text in diagnoses] == [1, 2, 3, 4, 5, 6]
    assert {str(cells) for cells in choices.sqref.ranges} == {"C2:C20000", "D2:D20000"}
    assert sheet.column_dimensions["A"].number_format == "@"
    sheet.append(["00123", "2024-01-05", diagnoses[4], "2"])
    book.save(path)
    found = read_label_sheet(path)
    assert found.rejects == [] and found.labels.to_dict("records") == [
        {"exam_id": "00123", "label_date": "2024-01-05", "left_code": 5, "right_code": 2}]


def test_a_template_replaces_no_file_and_does_not_count_beside_a_sheet(tmp_path):
    write_template(tmp_path / "template.xlsx")
    assert only_sheet(tmp_path) == tmp_path / "template.xlsx"
    with pytest.raises(UserError, match="is there already"):
        write_template(tmp_path / "template.xlsx")
    with pytest.raises(UserError, match="no row below its header names an exam"):
        read_label_sheet(tmp_path / "template.xlsx")
    shutil.copy(tmp_path / "template.xlsx", tmp_path / "labels.xlsx")
    assert only_sheet(tmp_path) == tmp_path / "labels.xlsx"
    shutil.copy(tmp_path / "template.xlsx", tmp_path / "more.xlsx")
    with pytest.raises(UserError, match=r"found labels\.xlsx, more\.xlsx"):
        only_sheet(tmp_path)

"""Workbooks as people and their programs make them: merged cells, formulas without a value, strict files, formats."""
import re
import zipfile

import openpyxl
import pytest

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_sheet import WORKSHEET, read_label_sheet

COLUMNS = ["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练"]


def write_workbook(path, rows, *, merged=(), others=None):
    """rows: those below the header; merged: ranges such as C2:C4; others: rows of further worksheets by title."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = WORKSHEET
    for row in (COLUMNS, *rows):
        sheet.append(row)
    for cells in merged:
        sheet.merge_cells(cells)
    for title, lines in (others or {}).items():
        other = book.create_sheet(title)
        for line in lines:
            other.append(line)
    book.save(path)
    return path


def rewrite(path, change):
    """Replace each part of a workbook by change(name, content)."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, change(name, content))
    return path


def codes(sheet):
    return {row.exam_id: (row.left_code, row.right_code) for row in sheet.labels.itertuples()}


def named(sheet):
    """Row and reason of each reject."""
    return [(int(reject["file"].rpartition("row ")[2]), reject["reason"]) for reject in sheet.rejects]


def test_a_merged_cell_counts_for_each_row_and_ear_that_it_covers(tmp_path):
    rows = [["a", None, 5, 5], ["b", None, None, 1], ["c", None, None, 4], ["d", None, 3, None], ["e", None, 5, 3],
            ["f", "2020-01-05", 4, None], [None, None, None, 1]]
    path = write_workbook(tmp_path / "a.xlsx", rows, merged=["C2:C4", "C5:D5", "A7:A8", "B7:B8"])
    sheet = read_label_sheet(path)
    assert codes(sheet) == {"a": (5, 5), "b": (5, 1), "c": (5, 4), "d": (3, 3), "e": (5, 3), "f": (4, 1)} and not sheet.rejects
    assert sheet.labels.label_date.tolist()[-1] == "2020-01-05"


def test_a_block_merged_over_rows_and_ears_counts_for_all(tmp_path):
    rows = [["a", None, 5, None], ["b", None, None, None], ["c", None, 1, 2]]
    assert codes(read_label_sheet(write_workbook(tmp_path / "a.xlsx", rows, merged=["C2:D3"]))) == {
        "a": (5, 5), "b": (5, 5), "c": (1, 2)}


def test_a_title_merged_over_all_columns_labels_nothing(tmp_path):
    rows = [["2020", None, None, None], ["a", None, 5, 1]]
    sheet = read_label_sheet(write_workbook(tmp_path / "a.xlsx", rows, merged=["A2:D2"]))
    assert codes(sheet) == {"2020": (0, 0), "a": (5, 1)} and not sheet.rejects


def test_a_row_that_only_makes_a_merged_cell_taller_is_no_fault(tmp_path):
    sheet = read_label_sheet(write_workbook(tmp_path / "a.xlsx", [["a", None, 5, 1], []], merged=["A2:A3", "C2:C3"]))
    assert codes(sheet) == {"a": (5, 1)} and not sheet.rejects and sheet.rows == 1


def test_a_label_merged_with_a_cell_of_another_column_is_named(tmp_path):
    sheet = read_label_sheet(write_workbook(tmp_path / "a.xlsx", [["a", "2020-01-05", None, 1]], merged=["B2:C2"]))
    assert codes(sheet) == {"a": (0, 1)} and named(sheet) == [(2, "merged_cell")] and "split it" in sheet.rejects[0]["detail"]


def test_a_value_hidden_below_a_merged_cell_is_named(tmp_path):
    """LibreOffice keeps what was in the cells that are merged, and shows the upper left one."""
    path = write_workbook(tmp_path / "a.xlsx", [["a", None, 5, 5], ["b", None, 2, 5]])
    rewrite(path, lambda name, part: part.replace(
        b"</sheetData>", b'</sheetData><mergeCells count="1"><mergeCell ref="C2:C3"/></mergeCells>'))
    sheet = read_label_sheet(path)
    assert codes(sheet) == {"a": (5, 5), "b": (0, 5)} and named(sheet) == [(3, "merged_cell")]


def test_a_formula_without_a_stored_value_is_named_and_not_taken_for_an_empty_cell(tmp_path):
    codes_of = {"编码": [["a", 5], ["b", 1], ["c", 1]]}
    rows = [["a", None, "=VLOOKUP(A2,编码!A:B,2,FALSE)", 1], ["b", None, 1, "=VLOOKUP(A3,编码!A:B,2,FALSE)"], ["c", None, 5, 5],
            ["=A4", None, 5, 5], ["e", "=TODAY()", 5, 5]]
    sheet = read_label_sheet(write_workbook(tmp_path / "a.xlsx", rows, others=codes_of))
    assert codes(sheet) == {"a": (0, 1), "b": (1, 0), "c": (5, 5), "e": (5, 5)}
    assert named(sheet) == [(2, "formula_without_value"), (3, "formula_without_value"), (5, "formula_without_value"),
                            (6, "unparsable_date")]
    assert all("open the file in Excel or WPS and save it" in reject["detail"] for reject in sheet.rejects)


def test_a_merged_formula_without_a_value_is_named_in_each_row(tmp_path):
    rows = [["a", None, "=2+3", 1], ["b", None, None, 1]]
    sheet = read_label_sheet(write_workbook(tmp_path / "a.xlsx", rows, merged=["C2:C3"]))
    assert codes(sheet) == {"a": (0, 1), "b": (0, 1)} and named(sheet) == [(2, "formula_without_value"),
                                                                          (3, "formula_without_value")]


def test_a_formula_that_gives_an_empty_text_is_an_empty_cell(tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", [["a", None, '=IF(1,"","")', 5]])
    rewrite(path, lambda name, part: re.sub(rb'<c r="C2"([^>]*)><f>', rb'<c r="C2" t="str"><f>', part))
    sheet = read_label_sheet(path)
    assert codes(sheet) == {"a": (0, 5)} and not sheet.rejects


def test_ids_that_are_all_formulas_without_a_value_are_one_line(tmp_path):
    with pytest.raises(UserError, match=f"names an exam .* sheet {WORKSHEET}, row 2: column 检查号: a formula whose value"):
        read_label_sheet(write_workbook(tmp_path / "a.xlsx", [['="00"&"1"', None, 5, 5]]))


def test_an_id_of_a_formula_is_its_stored_value(tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", [['=TEXT(1,"000")', None, 5, 5]])
    rewrite(path, lambda name, part: re.sub(rb'<c r="A2"[^>]*>(<f>.*?</f>)<v ?/>', rb'<c r="A2" t="str">\1<v>001</v>', part))
    assert codes(read_label_sheet(path)) == {"001": (5, 5)}


STRICT = {b"http://schemas.openxmlformats.org/spreadsheetml/2006/": b"http://purl.oclc.org/ooxml/spreadsheetml/",
          b"http://schemas.openxmlformats.org/officeDocument/2006/": b"http://purl.oclc.org/ooxml/officeDocument/"}


def strict(name, part):
    for usual, other in STRICT.items():
        part = part.replace(usual, other)
    return part


def test_a_strict_workbook_is_read_like_any_other(tmp_path):
    rows = [["001", "2020-01-05", "5：正常", 1], ["002", None, None, "=1+1"]]
    path = rewrite(write_workbook(tmp_path / "a.xlsx", rows, merged=["C2:C3"]), strict)
    with zipfile.ZipFile(path) as archive:
        assert b"schemas.openxmlformats.org/spreadsheetml" not in archive.read("xl/workbook.xml")
    sheet = read_label_sheet(path)
    assert codes(sheet) == {"001": (5, 1), "002": (5, 0)} and named(sheet) == [(3, "formula_without_value")]
    assert sheet.labels.label_date[0] == "2020-01-05"


@pytest.mark.parametrize(("number_format", "exam_id"), [
    ("00000000", "00000123"), ('"CT"000000', "CT000123"), ("\\C\\T0000", "CT0123"), ('0000"-1"', "0123-1"), ("0", "123"),
    ("General", "123"), ("0.00", "123"), ("0.00E+00", "123"), ("#,##0", "123"), ("@", "123"),
])
def test_an_id_stored_as_a_number_is_the_text_that_excel_shows(tmp_path, number_format, exam_id):
    path = write_workbook(tmp_path / "a.xlsx", [[123, None, 5, 5]])
    book = openpyxl.load_workbook(path)
    book[WORKSHEET]["A2"].number_format = number_format
    book.save(path)
    assert list(codes(read_label_sheet(path))) == [exam_id]


def test_other_worksheets_with_the_same_columns_are_named(tmp_path, caplog):
    path = write_workbook(tmp_path / "a.XLSX", [["a", None, 5, 5]], others={"2021": [COLUMNS, ["b", None, 1, 1]]})
    assert list(codes(read_label_sheet(path))) == ["a"]
    assert "the same columns are in '2021'" in caplog.text

"""What a cell of the label sheet means, and what happens to one that means nothing."""
import pandas as pd
import pytest

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_sheet import WORKSHEET, only_sheet, parse_code, parse_date, read_label_sheet

COLUMNS = ["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练", "影像所见", "检查结论"]


def write_sheet(path, rows, *, worksheet=WORKSHEET, columns=COLUMNS):
    frame = pd.DataFrame(rows, columns=columns)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        with pd.ExcelWriter(path) as book:
            pd.DataFrame({"x": [1]}).to_excel(book, sheet_name="other", index=False)
            frame.to_excel(book, sheet_name=worksheet, index=False)
    return path


@pytest.mark.parametrize(("cell", "code"), [
    ("5：正常", 5), ("5:正常", 5), (" 2 : 中耳胆脂瘤 ", 2), ("3", 3), ("3.0", 3), ("正常", 5), ("", 0), ("  ", 0), ("1：", 1),
])
def test_a_label_is_read_in_every_form_it_is_written(cell, code):
    assert parse_code(cell) == code


@pytest.mark.parametrize("cell", ["7：其他", "0", "正常？", "5：中耳胆脂瘤", "51", "左"])
def test_a_label_that_is_none_is_refused(cell):
    with pytest.raises(ValueError):
        parse_code(cell)


@pytest.mark.parametrize(("cell", "date"), [
    ("2023-05-07 10:11:12", "2023-05-07"), ("2023/5/7", "2023-05-07"), ("20230507", "2023-05-07"),
    ("2023年5月7日", "2023-05-07"), ("2023-13-01", ""), ("soon", ""),
])
def test_dates_in_several_forms(cell, date):
    assert parse_date(cell) == date


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.csv"])
def test_excel_and_csv_give_the_same(tmp_path, name):
    rows = [["00123", "2023-01-02", "5：正常", "2:中耳胆脂瘤", "", ""], ["00124", "2023-01-03", "", "9", "", ""],
            ["00123", "2023-01-02", "5", "2", "", ""], ["", "", "1", "", "", ""], ["00125", "", "1", "1", "", ""],
            ["00125", "", "1", "2", "", ""]]
    sheet = read_label_sheet(write_sheet(tmp_path / name, rows))
    labels = sheet.labels.set_index("exam_id")
    assert labels.loc["00123"].tolist() == ["2023-01-02", 5, 2]
    assert labels.loc["00124", ["left_code", "right_code"]].tolist() == [0, 0]
    assert labels.loc["00125", ["left_code", "right_code"]].tolist() == [1, 0]         # rows that disagree: no label
    assert [r["reason"] for r in sheet.rejects] == ["unparsable_label", "no_exam_id", "conflicting_label"]
    assert "row 3" in sheet.rejects[0]["file"] and "'9'" in sheet.rejects[0]["detail"]


def test_a_missing_sheet_worksheet_or_column_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_label_sheet(tmp_path / "none.xlsx")
    with pytest.raises(UserError, match="no worksheet"):
        read_label_sheet(write_sheet(tmp_path / "a.xlsx", [], worksheet="Sheet1"))
    with pytest.raises(UserError, match="'右侧诊断-训练' is missing"):
        read_label_sheet(write_sheet(tmp_path / "b.xlsx", [], columns=[c for c in COLUMNS if not c.startswith("右")]))
    (tmp_path / "c.xlsx").write_text("not a workbook")
    with pytest.raises(UserError, match="cannot be read"):
        read_label_sheet(tmp_path / "c.xlsx")
    with pytest.raises(UserError, match=r"expected one \.xlsx"):
        only_sheet(tmp_path)

"""An empty label sheet to fill in, with the diagnoses to choose from."""
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.ingest.label_sheet import EXAM_ID, EXAM_TIME, LABEL_COLUMNS, TEMPLATE, WORKSHEET
from medical_fenlei.vocabulary import DIAGNOSES

COLUMNS = {EXAM_ID: 18, EXAM_TIME: 20, **dict.fromkeys(LABEL_COLUMNS.values(), 24), "影像所见": 40, "检查结论": 40}
"""Columns of the template, and their widths in characters."""
LAST_ROW = 20_000
"""The last row whose diagnoses have a list to choose from."""
HELP_SHEET = "说明 how to fill in"
HELP = (
    ("检查号与检查文件夹同名，按文本填写，保留前导零。",
     "The exam id is the name of the exam's folder, as text, with its leading zeros."),
    ("检查时间写作 2024-01-05，可以留空。", "The time as 2024-01-05; it may stay empty."),
    ("每只耳从列表中选取诊断，或只写编码；没有诊断的耳留空。",
     "For each ear choose a diagnosis from the list, or type its code; leave an ear without a diagnosis empty."),
    ("左右均指患者的左右。", "Left and right are the patient's."),
    ("影像所见和检查结论不会被读取。", "Findings and conclusion are not read."),
)


def write_template(path: Path = TEMPLATE) -> None:
    """Write an empty label sheet. Raises UserError if there is a file already, which may have been filled in."""
    from openpyxl import Workbook
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter
    from openpyxl.worksheet.datavalidation import DataValidation

    if path.exists():
        raise UserError(f"--template {path}: is there already; fill it in, or name another file")
    book = Workbook()
    sheet = book.active
    sheet.title, sheet.freeze_panes = WORKSHEET, "A2"
    diagnoses = [f"{code}：{own.chinese}" for code, own in DIAGNOSES.items()]
    choices = DataValidation(type="list", formula1=f'"{",".join(diagnoses)}"', allow_blank=True, showErrorMessage=False)
    sheet.add_data_validation(choices)
    for number, (name, width) in enumerate(COLUMNS.items(), 1):
        letter = get_column_letter(number)
        sheet.cell(1, number, name).font = Font(bold=True)
        sheet.column_dimensions[letter].width = width
        sheet.column_dimensions[letter].number_format = "@"      # Excel would drop leading zeros of a number
        if name in LABEL_COLUMNS.values():
            choices.add(f"{letter}2:{letter}{LAST_ROW}")
    notes = book.create_sheet(HELP_SHEET)
    notes.column_dimensions["A"].width, notes.column_dimensions["B"].width = 60, 90
    for row in (*HELP, ("", ""), *zip(diagnoses, (own.english for own in DIAGNOSES.values()), strict=True)):
        notes.append(row)
    with atomic(path) as file:
        book.save(file)

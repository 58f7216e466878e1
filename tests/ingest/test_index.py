"""What of the sheet and of the disk finds together, and what the account says of the rest."""
import pandas as pd
import pytest

from medical_fenlei.ingest.index import build_index
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.series_choice import SeriesRules
from medical_fenlei.ingest.tree import find_exams


@pytest.mark.parametrize(("in_sheet", "lost"), [(["123", "0"], 1), (["00123", "123"], 0), (["124"], 0)])
def test_exams_that_only_leading_zeros_keep_apart_are_counted_and_not_matched(tmp_path, in_sheet, lost):
    (tmp_path / "2020-01-05" / "00123").mkdir(parents=True)
    labels = pd.DataFrame([(exam_id, "", 5, 5) for exam_id in in_sheet],
                          columns=["exam_id", "label_date", "left_code", "right_code"])
    date = {"exam_id": "123", "file": "labels.csv, row 2", "reason": "unparsable_date", "detail": ""}
    index = build_index(LabelSheet(labels, len(labels), [date], ""), find_exams(tmp_path), base=tmp_path, workers=1,
                        scan_file=tmp_path / "scan.jsonl", rules=SeriesRules())
    assert index.counts["of these, there but for leading zeros"] == lost
    assert set(index.table.exam_id) == {"00123"} & set(in_sheet)
    assert index.faults == len(index.table)                      # the empty folder; a date that is none is no fault


def test_a_folder_is_named_by_its_id_however_it_is_typed(tmp_path):
    for name in ("００１２３", " 00124 ", "A-7"):
        (tmp_path / "2020-01-05" / name).mkdir(parents=True)
    assert [exam.exam_id for exam in find_exams(tmp_path).exams] == ["00123", "00124", "A-7"]

"""The folder of the answers for new exams: what stands in it, and whether somebody else's files are in the way. No torch."""
from collections.abc import Sequence
from pathlib import Path

from medical_fenlei import tables
from medical_fenlei.files import PARTIAL
from medical_fenlei.ingest.exams import LooseExam
from medical_fenlei.own_files import LEDGER, OwnFiles

OUTPUTS = ("predictions.csv", tables.rejects_path(Path("predictions.csv")).name, "predictions.json", "page.html")
"""Names of the files beside the folders of the exams; no exam has one of them."""
FLAG = "--out-dir"


def refuse_others_files(out_dir: Path, exams: Sequence[LooseExam]) -> None:
    """Raise UserError if the output folder, or the folder of an exam in it, holds files in the way that somebody else wrote."""
    OwnFiles(out_dir, FLAG).refuse_others([
        *OUTPUTS, *(exam.exam_id for exam in exams if not (out_dir / exam.exam_id / LEDGER).is_file()
                    and _has_files(out_dir / exam.exam_id))])


def _has_files(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        return not all(PARTIAL.fullmatch(below.name) for below in path.iterdir())
    return path.exists() or path.is_symlink()

"""Exams that only the label sheet names, and exam folders that only the disk holds."""
import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.ingest.tree import ExamFolder, Tree, similar_names

MAX_SIMILAR = 3
"""Largest number of similar names in the account of a missing exam."""


@dataclass(frozen=True)
class Unmatched:
    """What the label sheet and the disk do not share."""

    missing: list[str]
    """Exam ids of the label sheet without a folder."""

    strangers: list[ExamFolder]
    """Exam folders that the label sheet does not name."""

    similar: dict[str, list[str]]
    """Files and folders with a similar name, below the base, by missing exam id."""

    @property
    def stranger_ids(self) -> set[str]:
        """Exam ids of the strangers."""
        return {exam.exam_id for exam in self.strangers}

    @property
    def but_for_zeros(self) -> set[str]:
        """Ids without leading zeros that are both missing and a stranger's."""
        return {exam_id.lstrip("0") for exam_id in self.missing} & {exam_id.lstrip("0") for exam_id in self.stranger_ids}

    @property
    def elsewhere(self) -> list[str]:
        """Missing exam ids with a similar name on disk that differs by more than leading zeros."""
        return [exam_id for exam_id in self.similar if exam_id.lstrip("0") not in self.but_for_zeros]

    def rejects(self) -> list[dict[str, object]]:
        """Return rows of `tables.REJECTS`."""
        rows: list[dict[str, object]] = [
            {"exam_id": exam_id, "file": "", "reason": "missing_on_disk",
             "detail": "no exam folder of this name" + _listed(self.similar.get(exam_id, []))} for exam_id in self.missing]
        return rows + [{"exam_id": exam.exam_id, "file": exam.relpath, "reason": "not_in_sheet",
                        "detail": "the label sheet has no exam of this name"} for exam in self.strangers]


def find_unmatched(exam_ids: Collection[str], tree: Tree, base: Path, *, inner: Iterable[tuple[str, str]]) -> Unmatched:
    """Compare the exam ids of a sheet with the exam folders of a tree.

    inner: (exam folder, path below it) of the folders inside matched exams, where a missing exam may lie too.
    """
    folders = {exam.exam_id for exam in tree.exams}
    missing = [exam_id for exam_id in exam_ids if exam_id not in folders]
    strangers = [exam for exam in tree.exams if exam.exam_id not in exam_ids]
    similar = similar_names(missing, [*inner, *_other_places(base, tree, strangers)]) if missing else {}
    return Unmatched(missing, strangers, similar)


def _other_places(base: Path, tree: Tree, strangers: Iterable[ExamFolder]) -> Iterator[tuple[str, str]]:
    """Yield where a missing exam may lie: the folders of strangers, those in them, and what belongs to no exam."""
    for exam in strangers:
        yield "", exam.relpath
        with contextlib.suppress(OSError), os.scandir(base / exam.relpath) as entries:
            yield from ((exam.relpath, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False))
    yield from (("", file) for file, _, _ in tree.problems)


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - MAX_SIMILAR} more" if len(places) > MAX_SIMILAR else ""
    return f"; similar names: {', '.join(places[:MAX_SIMILAR])}{more}" if places else ""

"""The files of the answers for new exams: a table, JSON, a page, and a folder with pictures for each exam."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.exclusive import only_writer_in
from medical_fenlei.files import write_json
from medical_fenlei.ingest.exam_files import Problem
from medical_fenlei.ingest.exams import LooseExam
from medical_fenlei.json_files import JsonFile
from medical_fenlei.new_exams.answers import EarAnswer, ExamAnswer
from medical_fenlei.new_exams.output_folder import FLAG, OUTPUTS
from medical_fenlei.new_exams.page import NOTICE, PASSED_OVER, write_answers_page
from medical_fenlei.new_exams.pictures import draw_explained_slices, draw_overviews, save_picture
from medical_fenlei.new_exams.predictor import ExamEvidence, Predictor
from medical_fenlei.own_files import OwnFiles
from medical_fenlei.parallel import Workers
from medical_fenlei.runs import versions
from medical_fenlei.vocabulary import SIDES

ANSWER = "answer.json"
_ANSWERS = JsonFile[ExamAnswer]("answer for an exam", ExamAnswer, "it is computed again")


@dataclass(frozen=True)
class WrittenAnswers:
    """The answers for new exams, and what could not be used."""

    answers: list[ExamAnswer]
    """The answer for each exam, in their order."""

    new: int
    """Exams that were not answered before."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""

    faults: int
    """Rejects that are faults of the input, refused ears among them."""

    harmless: frozenset[str]
    """Reasons of the other rejects."""


def write_answers(
    out_dir: Path, base: Path, exams: Sequence[LooseExam], strays: Sequence[Problem], predictor: Predictor, *,
    workers: Workers,
) -> WrittenAnswers:
    """Write `predictions.csv`, `predictions.json`, `page.html`, and for each exam `<exam_id>/answer.json` with its pictures.

    base: the folder of the exams; strays: what is below it and belongs to no exam. Exams that were answered before from the
    same files, by the same checkpoint and with the same settings, are not predicted again. Raises UserError if another process
    writes there.
    """
    with only_writer_in(FLAG, out_dir):
        return _write_answers(out_dir, base, exams, strays, predictor, workers)


def _write_answers(out_dir: Path, base: Path, exams: Sequence[LooseExam], strays: Sequence[Problem], predictor: Predictor,
                   workers: Workers) -> WrittenAnswers:
    OwnFiles(out_dir, FLAG).claim(*OUTPUTS)
    known = {exam.exam_id: _read(out_dir / exam.exam_id, predictor.key(exam)) for exam in exams}
    todo = [exam for exam in exams if known[exam.exam_id] is None]
    for answer, evidence in tqdm(predictor.answers(base, todo, workers=workers), total=len(todo), desc="exams", unit="",
                                 disable=None, leave=False):
        _write(out_dir / answer.exam_id, answer, evidence)
        known[answer.exam_id] = answer
    answers = [answer for answer in known.values() if answer is not None]
    tables.NEW_EXAM_ANSWERS.write(out_dir / "predictions.csv", _table(answers))
    model = predictor.model_facts()
    write_json(out_dir / "predictions.json", {
        "notice": NOTICE, "model": model, "versions": versions(), "exams": [answer.to_dict() for answer in answers]})
    refused, others = _refused(answers), _unused(exams, strays)
    write_answers_page(out_dir, answers, model, others)
    rejects = tables.REJECTS.frame(pd.concat([refused, others], ignore_index=True))
    faults = len(refused) + int((~others.reason.isin(PASSED_OVER)).sum())
    return WrittenAnswers(answers, len(todo), rejects, faults, frozenset(PASSED_OVER) - set(refused.reason))


def _read(folder: Path, key: str) -> ExamAnswer | None:
    """The answer that was written before; None if it is incomplete, or has another key."""
    try:
        found = _ANSWERS.read(folder / ANSWER)
    except (OSError, UserError):                                 # none, or damaged: computed again
        return None
    if found.key != key or [ear.side for ear in found.ears] != list(SIDES) or found.exam_id != folder.name:
        return None
    pictures = [found.scan_picture, *(task.picture for ear in found.ears for task in ear.tasks)]
    return found if all((folder / name).is_file() for name in pictures if name) else None


def _write(folder: Path, answer: ExamAnswer, evidence: ExamEvidence) -> None:
    """Write the pictures of an exam, then its answer: a folder that has one is complete."""
    pictures = [answer.scan_picture, *(task.picture for ear in answer.ears for task in ear.tasks)]
    own = OwnFiles(folder, FLAG)
    own.claim(ANSWER, *filter(None, pictures))
    (folder / ANSWER).unlink(missing_ok=True)
    own.remove_files()
    if answer.scan_picture:
        save_picture(draw_overviews(evidence.overviews), folder / answer.scan_picture)
    for ear in answer.ears:
        for task in ear.tasks:
            if task.picture:
                explanation = evidence.explanations[ear.side, task.task]
                save_picture(draw_explained_slices(explanation, ear, task), folder / task.picture)
    write_json(folder / ANSWER, answer.to_dict())


def _table(answers: Sequence[ExamAnswer]) -> pd.DataFrame:
    """`tables.NEW_EXAM_ANSWERS`."""
    rows = [row for answer in answers for ear in answer.ears for row in _rows(answer, ear)]
    return tables.NEW_EXAM_ANSWERS.frame(rows)


def _rows(answer: ExamAnswer, ear: EarAnswer) -> Iterator[dict[str, Any]]:
    """The rows of one ear: one for each task and class, or a single one without a prediction."""
    shared = {"exam_id": answer.exam_id, **_ear_columns(ear)}
    if not ear.tasks:
        yield {**shared, "task": "", "class": "", "probability": np.nan, "threshold": np.nan, "decision": "",
               "calibrated": False, "top_images": "", "picture": ""}
    for task in ear.tasks:
        for number, (name, probability) in enumerate(task.classes.items()):
            decides = task.threshold is not None and number == len(task.classes) - 1
            yield {**shared, "task": task.task, "class": name, "probability": probability,
                   "threshold": task.threshold if decides else np.nan, "decision": task.decision, "calibrated": task.calibrated,
                   "top_images": ";".join(str(one.source) for one in task.slices),
                   "picture": f"{answer.exam_id}/{task.picture}" if task.picture else ""}


def _ear_columns(ear: EarAnswer) -> dict[str, Any]:
    """The columns that all rows of an ear share."""
    facts = ear.facts
    return {
        "side": str(ear.side), "forced": ";".join(own.code for own in ear.forced),
        "refused": ear.refused.code if ear.refused else "", "refused_why": ear.refused.text if ear.refused else "",
        "quality_flags": ";".join(dict.fromkeys(own.code for own in ear.flags)),
        **{name: facts.get(name, "") for name in ("method", "manufacturer", "kernel")},
        "bone_kernel": ("yes" if facts["bone_kernel"] else "no") if facts else "",
        **{name: np.nan if facts.get(name) is None else facts[name] for name in (
            "confidence", "padded_share", "slice_increment_mm", "slice_thickness_mm", "pixel_spacing_mm", "tilt_deg")},
        "slices": facts.get("slices", pd.NA),
    }


def _refused(answers: Sequence[ExamAnswer]) -> pd.DataFrame:
    """`tables.REJECTS` of the ears without an answer."""
    return tables.REJECTS.frame([
        {"exam_id": answer.exam_id, "file": "", "reason": ear.refused.code, "detail": f"{ear.side}: {ear.refused.text}"}
        for answer in answers for ear in answer.ears if ear.refused])


def _unused(exams: Sequence[LooseExam], strays: Sequence[Problem]) -> pd.DataFrame:
    """`tables.REJECTS` of series, files and folders that were passed over or could not be read."""
    rows = []
    for exam in exams:
        unused = [(exam.shown_name(facts), reason, exam.redactor.hide(detail))
                  for facts, reason, detail in exam.choice.verdicts if reason != "chosen" and exam.choice.chosen]
        rows += [(exam.exam_id, *problem) for problem in (*unused, *exam.problems)]
    rows += [("", *problem) for problem in strays]
    return tables.REJECTS.frame([dict(zip(tables.REJECTS.columns, row, strict=True)) for row in rows])

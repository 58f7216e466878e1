"""The page of the answers for new exams: one HTML file that needs no network."""
import base64
import functools
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageColor

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.new_exams.answers import ExamAnswer
from medical_fenlei.pages.ear_pictures import DISPLAY_ORDER, SIDE_COLOURS
from medical_fenlei.pages.html import template
from medical_fenlei.reasons import HARMLESS
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL

NOTICE = "Research use only; not a medical device. These are a network's answers, not a diagnosis."
PASSED_OVER = HARMLESS | {"not_dicom"}
"""Reasons that are no faults here: an export contains texts and programs beside its images."""
EMBEDDED_EXAMS = 250
"""Exams up to which the page embeds the pictures; with more it refers to the files, or no browser would open it."""
JPEG_QUALITY = 88


def write_answers_page(out_dir: Path, answers: Sequence[ExamAnswer], model: dict[str, Any], others: pd.DataFrame) -> None:
    """Write `page.html` beside the pictures of the exams.

    model: what the page says about the network; others: `tables.REJECTS` without refused ears. Raises UserError if a picture
    cannot be read.
    """
    embed = len(answers) <= EMBEDDED_EXAMS
    passed = others[others.reason.isin(PASSED_OVER)].reason.value_counts()
    stream = template("new_exams", "new_exams.html", readable=readable, flag_summary=_flag_summary).stream(
        notice=NOTICE, model=model, counts=_counts(answers, several_tasks=len(model["tasks"]) > 1), answers=answers,
        sides=DISPLAY_ORDER, colours={side: ImageColor.getrgb(colour) for side, colour in SIDE_COLOURS.items()}, embed=embed,
        normal=NORMAL, codes=len(DIAGNOSES),
        source=functools.partial(_source, out_dir, embed), rejects_csv=tables.rejects_path(Path("predictions.csv")).name,
        passed={str(reason): int(number) for reason, number in passed.items()},
        damaged=others[~others.reason.isin(PASSED_OVER)].to_dict("records"))
    with atomic(out_dir / "page.html", "w") as file:
        file.writelines(stream)                                  # pictures are read as they are written


def readable(name: str) -> str:
    """Return the name of a task, class or code as plain words."""
    return name.replace("_vs_", " or ").replace("_", " ")


def _counts(answers: Sequence[ExamAnswer], *, several_tasks: bool) -> dict[str, int]:
    """The counts at the head of the page, by their names."""
    ears = [ear for answer in answers for ear in answer.ears]
    decisions = Counter((task.task, task.decision) for ear in ears for task in ear.tasks)
    forced = sum(1 for ear in ears if ear.forced)
    return {
        "exams": len(answers), "ears answered": sum(1 for ear in ears if ear.tasks),
        **{f"{readable(decision)}{f' ({readable(task)})' if several_tasks else ''}": number
           for (task, decision), number in sorted(decisions.items())},
        "answered with a flag": sum(1 for ear in ears if ear.tasks and ear.flags),
        "refused": sum(1 for ear in ears if ear.refused),
        **({"forced": forced} if forced else {}),
    }


def _flag_summary(answer: ExamAnswer) -> str:
    """The flags of an exam in one line, each with the ear that it concerns."""
    sides: dict[str, list[str]] = {}
    for side in DISPLAY_ORDER:
        for code in dict.fromkeys(flag.code for flag in answer.of(side).flags):
            sides.setdefault(code, []).append(str(side))
    return ", ".join(readable(code) + ("" if len(own) == len(DISPLAY_ORDER) else f" ({own[0]})") for code, own in sides.items())


def _source(out_dir: Path, embed: bool, picture: str) -> str:
    """The source of an image in the page: its content as a data URL, or its path."""
    if not embed:
        return picture
    try:
        with Image.open(out_dir / picture) as opened:
            content = io.BytesIO()
            opened.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
    except OSError:
        raise UserError(f"{out_dir / picture}: cannot be read; remove it and run this again") from None
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()

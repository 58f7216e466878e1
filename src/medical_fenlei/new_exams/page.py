"""The answers for new exams as files: a table, JSON, a page that needs no other file, and pictures of each ear."""
import base64
import functools
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.explanations.maps import Explanation
from medical_fenlei.files import atomic, read_json, write_json
from medical_fenlei.ingest.exams import LooseExam
from medical_fenlei.ingest.index import HARMLESS
from medical_fenlei.ingest.scan import Problem
from medical_fenlei.new_exams.answers import EarAnswer, ExamAnswer, TaskAnswer
from medical_fenlei.new_exams.predictor import Look, Pictures, Predictor, model_facts
from medical_fenlei.pages.html import template
from medical_fenlei.parallel import Workers
from medical_fenlei.runs import versions
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, SIDES, Side

NOTICE = "Research use only; not a medical device. These are a network's answers, not a diagnosis."
PASSED_OVER = HARMLESS | {"not_dicom"}
"""No faults here: an export holds texts and programs beside its images."""

LEVEL_HU, WIDTH_HU = 700, 4000
"""Bone window of the look at the scan."""
TILE, SCAN_EDGE, CAPTION = 224, 448, 28
"""Edge of a slice, height of the look at the scan, height of the line below; pixels."""
OPACITY, COLD = 0.55, 0.25
"""Of the hottest pixel over the grey slice; heat below which nothing is laid over it."""
AS_SEEN = (Side.RIGHT, Side.LEFT)
"""The patient's right stands at the left, as radiologists look at axial slices."""
COLOURS = {Side.RIGHT: (255, 160, 40), Side.LEFT: (70, 180, 255)}
INK, DIM = (242, 244, 246), (154, 164, 174)
EMBEDDED = 250
"""So many exams have their pictures within the page; of more it points to the files, or no browser would open it."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Written:
    answers: list[ExamAnswer]
    """Of every exam, in their order."""

    new: int
    """Those that were not there before."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""

    faults: int
    """Those of them that are faults of the input, refused ears among them."""

    harmless: frozenset[str]
    """Reasons of the others."""


def write_answers(
    out: Path, base: Path, exams: Sequence[LooseExam], strays: Sequence[Problem], predictor: Predictor, checkpoint: Path, *,
    workers: Workers,
) -> Written:
    """`predictions.csv`, `predictions.json`, `page.html`, and of each exam `<exam_id>/answer.json` with its pictures.

    Exams that were answered before from the same files, by the same checkpoint, with the same settings, are not done again.
    strays: what lies below the folder and belongs to no exam.
    """
    known = {exam.exam_id: _read(out / exam.exam_id, predictor.key(exam)) for exam in exams}
    todo = [exam for exam in exams if known[exam.exam_id] is None]
    for answer, pictures in tqdm(predictor.answers(base, todo, workers=workers), total=len(todo), desc="exams", unit="",
                                 disable=None, leave=False):
        _write(out / answer.exam_id, answer, pictures)
        known[answer.exam_id] = answer
    answers = [answer for answer in known.values() if answer is not None]
    tables.NEW_EXAM_ANSWERS.write(out / "predictions.csv", _table(answers))
    model = model_facts(predictor, checkpoint)
    write_json(out / "predictions.json", {
        "notice": NOTICE, "model": model, "versions": versions(), "exams": [answer.plain() for answer in answers]})
    refused, others = _refused(answers), _passed(exams, strays)
    harmless = frozenset(PASSED_OVER) - set(refused.reason)
    _write_page(out, answers, model, others)
    rejects = tables.REJECTS.frame(pd.concat([refused, others], ignore_index=True))
    return Written(answers, len(todo), rejects, len(refused) + int((~others.reason.isin(PASSED_OVER)).sum()), harmless)


def _read(folder: Path, key: str) -> ExamAnswer | None:
    """What was answered before; None where it is not whole, or another answer."""
    try:
        plain = read_json(folder / "answer.json")
        if plain["key"] != key:
            return None
        found = ExamAnswer.from_plain(plain)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pictures = [found.scan_picture, *(task.picture for ear in found.ears for task in ear.tasks)]
    return found if all((folder / name).is_file() for name in pictures if name) else None


def _write(folder: Path, answer: ExamAnswer, pictures: Pictures) -> None:
    """The answer last: an exam that has it is whole."""
    (folder / "answer.json").unlink(missing_ok=True)
    for before in folder.glob("*.png"):
        before.unlink()
    if answer.scan_picture:
        _save(draw_scan(pictures.looks), folder / answer.scan_picture)
    for ear in answer.ears:
        for task in ear.tasks:
            if task.picture:
                _save(draw_ear(pictures.explained[ear.side, task.task], ear, task), folder / task.picture)
    write_json(folder / "answer.json", answer.plain())


def _save(picture: Image.Image, path: Path) -> None:
    with atomic(path) as file:
        picture.save(file, format="PNG")


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def draw_scan(looks: Sequence[Look]) -> Image.Image:
    """The slice through the ears of each series, side by side, the patient's right at the left; the cut volumes outlined."""
    drawn = [_draw_look(look) for look in sorted(looks, key=lambda look: look.view.affine[0, 3])]
    sheet = Image.new("RGB", (sum(one.width for one in drawn) + 4 * (len(drawn) - 1), SCAN_EDGE))
    left = 0
    for one in drawn:
        sheet.paste(one, (left, 0))
        left += one.width + 4
    return sheet


def _draw_look(look: Look) -> Image.Image:
    rows, columns = look.view.image.shape
    high = SCAN_EDGE / rows
    wide = high / look.view.aspect
    grey = Image.fromarray(_grey(look.view.image)).resize((round(columns * wide), SCAN_EDGE), Image.Resampling.BILINEAR)
    picture = grey.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for side, line in look.outlines.items():
        pen.polygon([((column + 0.5) * wide, (row + 0.5) * high) for row, column in line], outline=COLOURS[side], width=2)
        row, column = look.centres[side]
        x, y = (column + 0.5) * wide, (row + 0.5) * high
        pen.line([(x - 6, y), (x + 6, y)], COLOURS[side], 2)
        pen.line([(x, y - 6), (x, y + 6)], COLOURS[side], 2)
    for side, x, anchor in ((Side.RIGHT, 10, "lm"), (Side.LEFT, picture.width - 10, "rm")):
        pen.text((x, SCAN_EDGE / 2), side[0].upper(), COLOURS[side], _font(32), anchor=anchor)
    return picture


def _grey(hu: np.ndarray) -> np.ndarray:
    """uint8 of int16 HU through the bone window."""
    share = (hu.astype(np.float32) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU
    return (np.clip(share, 0, 1) * 255).astype(np.uint8)


def draw_ear(found: Explanation, ear: EarAnswer, task: TaskAnswer) -> Image.Image:
    """Above the slices that count most, below the same with the map over them; lateral outwards, as on an axial display.

    The volume has its lateral side at column 0 on both sides: the left ear is mirrored back.
    """
    count = len(found.slices)
    gap = 3
    sheet = Image.new("RGB", (count * (TILE + gap) - gap, 2 * TILE + gap + CAPTION), (16, 20, 24))
    pen = ImageDraw.Draw(sheet)
    mirrored = ear.side is Side.LEFT
    centre = ear.facts["ear_centre_lps_mm"][2]
    heat_colours = matplotlib.colormaps["inferno"]
    for n, (k, shown) in enumerate(zip(found.slices, task.slices, strict=True)):
        grey, heat = found.grey[k], found.maps[0].heat[k]
        plain = np.repeat(255 * grey[..., None], 3, axis=2)
        opacity = OPACITY * np.clip((heat[..., None] - COLD) / (1 - COLD), 0, 1)
        overlay = (1 - opacity) * plain + opacity * 255 * heat_colours(heat)[..., :3]
        left = n * (TILE + gap)
        for row, image in enumerate((plain, overlay)):
            turned = image[:, ::-1] if mirrored else image
            tile = Image.fromarray(turned.round().clip(0, 255).astype(np.uint8)).resize((TILE, TILE), Image.Resampling.BILINEAR)
            sheet.paste(tile, (left, row * (TILE + gap)))
        pen.text((left + TILE / 2, 2 * TILE + gap + CAPTION / 2), f"{_signed(shown.z_mm - centre)} mm, slice {shown.k}", INK,
                 _font(17), anchor="mm")
    ends = ("medial", "lateral") if mirrored else ("lateral", "medial")
    for x, anchor, text in ((5, "ld", ends[0]), (TILE - 5, "rd", ends[1])):
        pen.text((x, TILE - 4), text, INK, _font(17), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    pen.text((TILE / 2, 4), "front", INK, _font(17), anchor="ma", stroke_width=2, stroke_fill=(0, 0, 0))
    return sheet


def _signed(number: float) -> str:
    return f"{round(number):+d}" if round(number) else "0"


def _table(answers: Sequence[ExamAnswer]) -> pd.DataFrame:
    """`tables.NEW_EXAM_ANSWERS`."""
    rows = [row for answer in answers for ear in answer.ears for row in _rows(answer, ear)]
    return tables.NEW_EXAM_ANSWERS.frame(rows)


def _rows(answer: ExamAnswer, ear: EarAnswer) -> Iterator[dict[str, Any]]:
    facts = ear.facts
    shared = {
        "exam_id": answer.exam_id, "side": str(ear.side), "forced": ";".join(own.code for own in ear.forced),
        "refused": ear.refused.code if ear.refused else "", "refused_why": ear.refused.text if ear.refused else "",
        "quality_flags": ";".join(dict.fromkeys(own.code for own in ear.flags)),
        **{name: facts.get(name, "") for name in ("method", "manufacturer", "kernel")},
        "bone_kernel": ("yes" if facts["bone_kernel"] else "no") if facts else "",
        **{name: np.nan if facts.get(name) is None else facts[name] for name in (
            "confidence", "padded_share", "slice_increment_mm", "slice_thickness_mm", "pixel_spacing_mm", "tilt_deg")},
        "slices": facts.get("slices", pd.NA),
    }
    if not ear.tasks:
        yield {**shared, "task": "", "class": "", "probability": np.nan, "threshold": np.nan, "decision": "",
               "calibrated": False, "picture": ""}
    for task in ear.tasks:
        for number, (name, probability) in enumerate(task.classes.items()):
            decides = task.threshold is not None and number == len(task.classes) - 1
            yield {**shared, "task": task.task, "class": name, "probability": probability,
                   "threshold": task.threshold if decides else np.nan, "decision": task.decision, "calibrated": task.calibrated,
                   "picture": f"{answer.exam_id}/{task.picture}" if task.picture else ""}


def _refused(answers: Sequence[ExamAnswer]) -> pd.DataFrame:
    """`tables.REJECTS` of the ears without an answer."""
    return tables.REJECTS.frame([
        {"exam_id": answer.exam_id, "file": "", "reason": ear.refused.code, "detail": f"{ear.side}: {ear.refused.text}"}
        for answer in answers for ear in answer.ears if ear.refused])


def _passed(exams: Sequence[LooseExam], strays: Sequence[Problem]) -> pd.DataFrame:
    """`tables.REJECTS` of series, files and folders that were passed over or could not be read."""
    rows = []
    for exam in exams:
        lost = [(exam.told(facts), reason, exam.private.hide(detail)) for facts, reason, detail in exam.choice.verdicts
                if reason != "chosen" and exam.choice.chosen]
        rows += [(exam.exam_id, *problem) for problem in (*lost, *exam.problems)]
    rows += [("", *problem) for problem in strays]
    return tables.REJECTS.frame([dict(zip(tables.REJECTS.columns, row, strict=True)) for row in rows])


def _write_page(out: Path, answers: Sequence[ExamAnswer], model: dict[str, Any], others: pd.DataFrame) -> None:
    """others: what is no refused ear, `tables.REJECTS`."""
    ears = [ear for answer in answers for ear in answer.ears]
    decisions = Counter((task.task, task.decision) for ear in ears for task in ear.tasks)
    counts = {
        "exams": len(answers), "ears answered": sum(1 for ear in ears if ear.tasks),
        **{f"{words(name)}{f' ({words(task)})' if len(model['tasks']) > 1 else ''}": number
           for (task, name), number in sorted(decisions.items())},
        "answered with a flag": sum(1 for ear in ears if ear.tasks and ear.flags),
        "refused": sum(1 for ear in ears if ear.refused),
        **({"forced": forced} if (forced := sum(1 for ear in ears if ear.forced)) else {}),
    }
    embed = len(answers) <= EMBEDDED
    passed = others[others.reason.isin(PASSED_OVER)].reason.value_counts()
    stream = template("new_exams", "new_exams.html", words=words, flag_words=flag_words).stream(
        notice=NOTICE, model=model, counts=counts, answers=answers, as_seen=AS_SEEN, colours=COLOURS, embed=embed,
        normal=NORMAL, codes=len(DIAGNOSES),
        source=functools.partial(_source, out, embed), rejects_csv=tables.rejects_path(Path("predictions.csv")).name,
        passed={str(reason): int(number) for reason, number in passed.items()},
        damaged=others[~others.reason.isin(PASSED_OVER)].to_dict("records"))
    with atomic(out / "page.html", "w") as file:
        file.writelines(stream)                                  # pictures are read as they are written


def flag_words(answer: ExamAnswer) -> str:
    """The flags of an exam in one line, each with the ears that it concerns."""
    sides: dict[str, list[str]] = {}
    for side in AS_SEEN:
        for code in dict.fromkeys(flag.code for flag in answer.of(side).flags):
            sides.setdefault(code, []).append(str(side))
    return ", ".join(words(code) + ("" if len(own) == len(AS_SEEN) else f" ({own[0]})") for code, own in sides.items())


def words(name: str) -> str:
    """A task or a class as people read it."""
    return name.replace("_vs_", " or ").replace("_", " ")


def _source(out: Path, embed: bool, picture: str) -> str:
    """Of an image in the page: its content, or where it lies."""
    if not embed:
        return picture
    try:
        with Image.open(out / picture) as opened:
            content = io.BytesIO()
            opened.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
    except OSError:
        raise UserError(f"{out / picture}: cannot be read; remove it and run this again") from None
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


assert set(AS_SEEN) == set(SIDES)

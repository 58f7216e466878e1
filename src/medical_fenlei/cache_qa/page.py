"""The report on a cache: pictures of its exams, an overview, and a page that lists every ear, the most unusual first."""
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cache_qa.outliers import DAMAGED, NOT_CACHED, STALE, CachedEar, median_histogram
from medical_fenlei.cache_qa.pictures import (
    PNG_PIXELS,
    SCAN_BOX,
    SLICES_BOX,
    UNUSUAL,
    ExamRecord,
    draw_exam,
    draw_overview,
    reason_of,
)
from medical_fenlei.ears.store import EarStore
from medical_fenlei.files import write_text
from medical_fenlei.pages.ear_pictures import LEVEL_HU, WIDTH_HU
from medical_fenlei.pages.html import template
from medical_fenlei.parallel import map_items
from medical_fenlei.vocabulary import Side

LOW_CONFIDENCE, PADDED = 0.5, 0.01
"""The page counts ears of a confidence below and of a padded share above; ears with reasons for doubt always count."""


@dataclass(frozen=True)
class EarQaReport:
    """The content of a report that was written."""

    ranked: pd.DataFrame
    """`tables.QA_EARS`, with the picture of each ear that has one."""

    pictures: int
    without_scan: dict[str, str]
    """Exams whose picture shows the cached volumes only, and why."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: ears that could not be read, and exams that could not be drawn."""


def write_ear_qa(
    folder: Path, store: EarStore, ears: Sequence[CachedEar], ranked: pd.DataFrame, rejects: pd.DataFrame,
    *, dicom_base: Path, worst: int, workers: int,
) -> EarQaReport:
    """Write `exams/<exam_id>.png` of the `worst` exams (0: all), `overview.png`, `qa_ears.csv` and `index.html`.

    ranked, rejects: as `outliers.rank` and `outliers.read_ears` return them.
    """
    exams = _exams(ears, ranked, rejects)[:worst or None]
    draw = functools.partial(draw_exam, store, dicom_base, median_histogram(ears), folder / "exams")
    drawn, without_scan, faults = {}, {}, []
    for outcome in map_items(draw, exams, workers=workers, label="pictures"):
        exam_id = outcome.item.exam_id
        if outcome.value is None:
            faults.append({"exam_id": exam_id, "file": "", "reason": outcome.reason, "detail": outcome.detail})
            continue
        drawn[exam_id] = f"exams/{exam_id}.png"
        if outcome.value:
            without_scan[exam_id] = outcome.value
    ranked = ranked.assign(picture=ranked.exam_id.map(drawn).fillna("").astype("str"))
    rejects = tables.REJECTS.frame(pd.concat([rejects, tables.REJECTS.frame(faults)], ignore_index=True))
    draw_overview(folder / "overview.png", store, ranked)
    tables.QA_EARS.write(folder / "qa_ears.csv", ranked)
    _write_page(folder / "index.html", store, ranked, rejects)
    return EarQaReport(ranked, len(drawn), without_scan, rejects)


def _exams(ears: Sequence[CachedEar], ranked: pd.DataFrame, rejects: pd.DataFrame) -> list[ExamRecord]:
    """Return every exam with an ear that could be read, that of the highest score first."""
    reason = dict(zip(rejects.exam_id, rejects.reason, strict=True))     # one ear could be read: at most one reason per exam
    exams = {str(exam): ExamRecord(str(exam), {}, {}, str(reason.get(exam, NOT_CACHED))) for exam in ranked.exam_id}
    for ear in ears:
        exams[ear.exam_id].ears[ear.side] = ear
    for row in ranked.to_dict("records"):
        exams[row["exam_id"]].rows[Side(row["side"])] = {str(name): value for name, value in row.items()}
    return list(exams.values())


def _write_page(path: Path, store: EarStore, ranked: pd.DataFrame, rejects: pd.DataFrame) -> None:
    counts = {
        "ears": len(ranked), "exams": ranked.exam_id.nunique(),
        "low confidence": int(((ranked.confidence < LOW_CONFIDENCE) | (ranked.reasons != "")).sum()),
        f"unusual, score {UNUSUAL:.0f} or more": int((ranked.score >= UNUSUAL).sum()),
        f"padded, over {PADDED:.0%}": int((ranked.padded_share > PADDED).sum()),
        "not in the cache": int((rejects.reason == NOT_CACHED).sum()),
        "stale, cut from another series": int((rejects.reason == STALE).sum()),
        "damaged": int((rejects.reason == DAMAGED).sum()),
        "not drawn": int((~rejects.reason.isin([DAMAGED, NOT_CACHED, STALE])).sum()),
    }
    page = template("cache_qa", "ear_qa.html", link=quote)                   # file names may hold characters that URLs may not
    write_text(path, page.render(
        key=store.folder.name, counts=counts, rows=ranked.to_dict("records"), unusual=UNUSUAL, why=reason_of,
        picture_width=PNG_PIXELS[0], boxes={"scan": SCAN_BOX, **SLICES_BOX},
        rejects=rejects[rejects.reason != NOT_CACHED].to_dict("records"),
        rejects_csv=tables.rejects_path(Path("qa_ears.csv")).name,
        level=LEVEL_HU, width=WIDTH_HU,
    ))

"""The manifest: one row an ear, with its series, the facts of its headers, its label and its patient."""
import functools
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.geometry import stack
from medical_fenlei.dicom.header import read_identity
from medical_fenlei.dicom.volume import inside, read_headers
from medical_fenlei.ingest.patients import patient_key
from medical_fenlei.parallel import map_items
from medical_fenlei.vocabulary import SIDES


def build_manifest(index: pd.DataFrame, *, base: Path, key: bytes, workers: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest and rejects of an index (`tables.MANIFEST`, `tables.REJECTS`); exams without a usable series are rejects."""
    usable = index[index.series_relpath != ""]
    rejects: list[dict[str, object]] = [
        {"exam_id": row.exam_id, "file": row.exam_relpath, "reason": "no_series", "detail": row.series_reason}
        for row in index[index.series_relpath == ""].itertuples()
    ]
    exams = list(zip(usable.exam_id, usable.series_relpath, strict=True))
    by_id = usable.set_index("exam_id")
    rows: list[dict[str, object]] = []
    for outcome in map_items(functools.partial(_facts, base, key), exams, workers=workers, label="headers"):
        exam_id, series_relpath = outcome.item
        if outcome.value is None:
            rejects.append({"exam_id": exam_id, "file": series_relpath, "reason": outcome.reason, "detail": outcome.detail})
            continue
        exam = by_id.loc[exam_id]
        shared = {name: exam[name] for name in ("date", "label_date", "date_match", "series_relpath")}
        rows += [{"exam_id": exam_id, "side": str(side), **shared, **outcome.value, "label_code": exam[f"{side}_code"]}
                 for side in SIDES]
    if not rows:
        return tables.MANIFEST.empty(), tables.REJECTS.frame(rejects)
    ears = pd.DataFrame(rows)
    table = pd.concat([ears, tables.task_columns(ears.label_code)], axis=1)
    return tables.MANIFEST.frame(table), tables.REJECTS.frame(rejects)


def _facts(base: Path, key: bytes, exam: tuple[str, str]) -> dict[str, Any]:
    """Header facts (`tables.HEADER_FACTS`), number of images and patient of one exam's series."""
    exam_id, series_relpath = exam
    headers, _ = read_headers(inside(base, series_relpath))
    geometry = stack(headers)
    lowest = headers[geometry.order[0]]
    who, source = patient_key(read_identity(lowest.path), exam_id, key)
    return {
        "n_instances": len(headers), "patient_key": who, "patient_key_source": source,
        "manufacturer": lowest.manufacturer, "model": lowest.model, "kernel": lowest.kernel,
        "transfer_syntax": lowest.transfer_syntax, "rows": lowest.rows, "columns": lowest.columns,
        "pixel_spacing_mm": lowest.pixel_spacing[0], "slice_thickness_mm": lowest.slice_thickness,
        "slice_increment_mm": round(geometry.step, 4),
    }

"""What a network looked at: in one ear, with all files of it, or in every ear of a set, with a picture each."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.sources import find_ears, prepare_missing, set_label
from medical_fenlei.errors import UserError
from medical_fenlei.explanations.maps import Explanation, explain
from medical_fenlei.explanations.pictures import ExplainedEars, explain_ears, write_explanation
from medical_fenlei.tasks import OUTSIDE, Task, named_apart
from medical_fenlei.trained.calibration import Calibration, Fitted
from medical_fenlei.trained.network import Trained
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to explain."""

    target: str
    """`predicted`, or the name of a class."""

    methods: tuple[str, ...]
    top: int
    layer: str | None


@dataclass(frozen=True)
class ExplainedEar:
    """One ear, by one task."""

    found: Explanation
    label_code: int
    folder: Path
    files: list[Path]


def explain_one(trained: Trained, checkpoint: Path, data: DataConfig, exam_id: str, side: Side, request: Request,
                out: Path | None) -> list[ExplainedEar]:
    """Of each task that the data names, after all of them could be. out: in place of the run's reports. Raises UserError."""
    tasks, store, fitted = trained.chosen(data), trained.store(data), _fitted(checkpoint)
    manifest = tables.MANIFEST.read(data.manifest_csv)
    ear = manifest[(manifest.exam_id == exam_id) & (manifest.side == str(side))]
    if ear.empty:
        raise UserError(f"--exam-id {exam_id}: {data.manifest_csv} has no {side} ear of that exam")
    rejects = prepare_missing(data, store, ear)
    if len(rejects):
        raise UserError(f"--exam-id {exam_id}: {rejects.reason.iloc[0]}: {rejects.detail.iloc[0]}")
    volume, affine = np.array(store.read(exam_id, side)), np.array(store.read_facts(exam_id, side)["affine_lps"])
    each = [explain(trained, volume, affine, task, target=request.target, methods=request.methods, top=request.top,
                    layer=request.layer) for task in tasks]
    code, done = int(ear.label_code.iloc[0]), []
    out = out or trained.run.reports / "gradcam" / f"{exam_id}_{side}"
    for task, plain in zip(tasks, each, strict=True):
        found = plain.calibrated(fitted[task.name]) if task.name in fitted else plain
        folder = out / task.name if len(trained.tasks) > 1 else out
        files = write_explanation(found, folder, exam_id=exam_id, side=side, affine=affine, label_code=code,
                                  facts={"task": task.name})
        done.append(ExplainedEar(found, code, folder, files))
    return done


@dataclass(frozen=True)
class ExplainedSet:
    """A set, by one task."""

    task: Task
    ears: int
    done: ExplainedEars
    csv: Path


def explain_set(trained: Trained, checkpoint: Path, data: DataConfig, set_name: str, request: Request, out: Path | None
                ) -> tuple[list[ExplainedSet], pd.DataFrame, Path]:
    """By each task that the data names; `tables.REJECTS` of all, and the table that they belong to. out: in place of the run's
    reports. Raises UserError."""
    tasks, store, fitted = trained.chosen(data), trained.store(data), _fitted(checkpoint)
    sources = find_ears(data, store, tasks, (set_name,))
    if set_name not in sources.ears or sources.ears[set_name].empty:
        raise UserError(f"--split {set_name}: {data.splits_root} --pct {data.pct} has no ears there for "
                        + ", ".join(task.name for task in tasks))
    ears, rejects, reports = sources.ears[set_name], [sources.rejects], out or trained.run.reports
    name, sets = f"explanations_{set_label(set_name, data)}", []
    for task in tasks:
        own, label = ears[task.targets(ears.label_code.to_numpy()) != OUTSIDE], named_apart(name, task, trained.tasks)
        done = explain_ears(trained, store, own, task, reports / label, methods=request.methods, top=request.top,
                            target=request.target, layer=request.layer, label=task.name, fitted=fitted.get(task.name))
        tables.EXPLANATIONS.write(reports / f"{label}.csv", done.table)
        rejects.append(done.rejects)
        sets.append(ExplainedSet(task, len(own), done, reports / f"{label}.csv"))
    return sets, tables.REJECTS.frame(pd.concat(rejects, ignore_index=True)), reports / f"{name}.csv"


def _fitted(checkpoint: Path) -> Mapping[str, Fitted]:
    found = Calibration.of(checkpoint)
    return found.tasks if found else {}

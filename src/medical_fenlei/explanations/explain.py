"""Explain the ears of one exam, with all their files, or every ear of a set, with a picture each."""
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.selection import set_label
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.explanations.explained_ear import ExplainedEar
from medical_fenlei.explanations.maps import (
    NOT_FINITE,
    NOT_FINITE_DETAIL,
    ExplanationRequest,
    check_request,
    explain,
    explain_pass,
    look_for,
)
from medical_fenlei.explanations.pictures import LAYOUT, write_montage
from medical_fenlei.explanations.report import write_explanation
from medical_fenlei.files import write_json
from medical_fenlei.json_files import JsonFile
from medical_fenlei.parallel import map_items
from medical_fenlei.spatial import Affine
from medical_fenlei.tasks import OUTSIDE, Task, with_task_name
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.vocabulary import UNLABELLED, Side


@dataclass(frozen=True)
class ExplainedEars:
    """The outcome of explaining several ears for one task."""

    table: pd.DataFrame
    """`tables.EXPLANATIONS`."""

    made: int
    """Ears whose picture was drawn."""

    kept: int
    """Ears whose picture was there already, with the same network, volume and request."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""


def explain_ears(
    network: TrainedNetwork, store: EarStore, ears: pd.DataFrame, task: Task, folder: Path,
    request: ExplanationRequest, calibration: TaskCalibration | None = None,
) -> ExplainedEars:
    """Draw one montage `<exam_id>_<side>.png` into a folder for each ear of a table, and write its rows beside it.

    ears: columns exam_id, side and, if known, label_code; all of them are in the store. An ear that cannot be explained is a
    reject, and the others continue; the picture of an ear that was explained before in the same way is kept. calibration:
    supplies the temperature of the probabilities. Raises UserError for an unknown method, class or layer.
    """
    check_request(network, task, request)
    explainer = _Explainer(network, store, task, folder, request, calibration, network.fingerprint())
    codes = ears.label_code if "label_code" in ears else [UNLABELLED] * len(ears)
    items = [(str(exam), Side(side), int(code)) for exam, side, code in zip(ears.exam_id, ears.side, codes, strict=True)]
    rows, kept, made, faults = [], 0, 0, []
    for outcome in map_items(explainer.explain, items, workers=0, label=f"{task.name}: explanations"):
        if outcome.value is None:
            exam_id, side, _ = outcome.item
            faults.append({"exam_id": exam_id, "file": f"{exam_id}_{side}", "reason": outcome.reason, "detail": outcome.detail})
            continue
        own, was_there = outcome.value
        rows += own
        kept, made = kept + was_there, made + (not was_there)
    return ExplainedEars(tables.EXPLANATIONS.frame(rows), made, kept, tables.REJECTS.frame(faults))


class _Rows(TypedDict):
    key: str
    rows: list[dict[str, int | float | str | None]]


_ROWS = JsonFile[Any]("rows of an explained ear", _Rows, "it is made again")


@dataclass(frozen=True)
class _Explainer:
    """Everything that explaining an ear needs except the ear."""

    network: TrainedNetwork
    store: EarStore
    task: Task
    folder: Path
    request: ExplanationRequest
    calibration: TaskCalibration | None
    fingerprint: str

    def explain(self, ear: tuple[str, Side, int]) -> tuple[list[dict[str, Any]], bool]:
        """Return the rows of one ear (exam id, side, code), and whether they were there already."""
        exam_id, side, code = ear
        volume, affine, facts = self._read(exam_id, side)
        picture, rows_json = self.folder / f"{exam_id}_{side}.png", self.folder / f"{exam_id}_{side}.json"
        key = self._key(code, facts["sha256"])
        if picture.is_file() and rows_json.is_file():
            try:
                before = _ROWS.read(rows_json)
                if before["key"] == key and all(row.keys() == tables.EXPLANATIONS.columns.keys() for row in before["rows"]):
                    return before["rows"], True
            except UserError:
                pass                                             # truncated, or from another program: made again
        found = explain(self.network, volume, affine, self.task, self.request)
        explained = ExplainedEar(exam_id=exam_id, side=side, label_code=code, affine=affine, explanation=found,
                                 images=tables.source_images(facts, len(volume)))
        explained = explained.calibrated(self.calibration) if self.calibration else explained
        write_montage(explained, picture)
        rows = explained.table_rows(f"{self.folder.name}/{picture.name}")
        write_json(rows_json, {"key": key, "rows": rows})
        return rows, False

    def _read(self, exam_id: str, side: Side) -> tuple[np.ndarray, Affine, tables.EarFacts]:
        """Return volume, affine and facts of a cached ear. Raises Rejected (damaged_entry)."""
        try:
            volume, facts = np.array(self.store.read(exam_id, side)), self.store.read_facts(exam_id, side)
            affine = self.store.read_affine(exam_id, side)
        except (UserError, OSError) as error:
            raise Rejected("damaged_entry", str(error) if isinstance(error, UserError) else type(error).__name__) from None
        return volume, affine, facts

    def _key(self, code: int, volume: str) -> str:
        """Return what identifies network, request and volume: a picture with the same key is kept."""
        temperature = self.calibration.temperature if self.calibration else 1.0
        parts = [self.fingerprint, self.task.name, asdict(self.request), LAYOUT, temperature, code, volume]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class ExplanationFiles:
    """The explanation of one ear for one task, and the files that show it."""

    ear: ExplainedEar
    folder: Path
    files: list[Path]


@dataclass(frozen=True)
class ExplainedExam:
    """The explained ears of one exam."""

    written: list[ExplanationFiles]
    """At least one: of each ear, for each task."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: ears that cannot be prepared or explained."""


def explain_exam(network: TrainedNetwork, data: DataConfig, exam_id: str, folders: Mapping[Side, Path],
                 request: ExplanationRequest) -> ExplainedExam:
    """Explain ears of one exam, from one pass, for each task that the data settings name, and write their files.

    folders: where the files of the ear of each side go; of these sides, those in the manifest are explained. Raises UserError,
    before any file is written, if there is none, or if none can be explained.
    """
    tasks, ears = network.select_tasks(data), network.open_exam(data, exam_id, [*folders])
    calibrations, codes = network.calibrations(tasks), dict(zip(ears.ears.side, ears.ears.label_code, strict=True))
    for task in tasks:
        check_request(network, task, request)
    sides = [side for side in folders if side in codes]
    affines = [ears.store.read_affine(exam_id, side) for side in sides]
    seen = look_for(network, np.stack([ears.store.read(exam_id, side) for side in sides]), request)
    explained, faults = [], []
    for task in tasks:
        for side, affine, found in zip(sides, affines, explain_pass(seen, affines, task, request), strict=True):
            if found is None:
                faults.append({"exam_id": exam_id, "file": f"{exam_id}_{side}", "reason": NOT_FINITE,
                               "detail": f"{task.name}: {NOT_FINITE_DETAIL}"})
                continue
            own = ExplainedEar(exam_id=exam_id, side=side, label_code=int(codes[side]), affine=affine,
                               images=ears.store.read_images(exam_id, side), explanation=found)
            explained.append((task, own.calibrated(calibrations[task.name])))
    if not explained:
        raise UserError(f"--checkpoint {network.path}: no explanation of {faults[0]['file']}: {faults[0]['detail']}")
    written = []
    for task, own in explained:
        folder = folders[own.side] / task.name if len(network.tasks) > 1 else folders[own.side]
        written.append(ExplanationFiles(own, folder, write_explanation(own, folder, facts={"task": task.name})))
    return ExplainedExam(written, tables.REJECTS.frame(pd.concat([ears.rejects, tables.REJECTS.frame(faults)])))


@dataclass(frozen=True)
class TaskExplanations:
    """The ears of a set, explained for one task."""

    task: Task
    ears: int
    """Ears that the task concerns."""

    done: ExplainedEars
    csv: Path
    """The table of the explanations; their pictures are in the folder of the same name."""


@dataclass(frozen=True)
class ExplainedSet:
    """The ears of a set, explained for several tasks."""

    tasks: list[TaskExplanations]
    rejects: pd.DataFrame
    """`tables.REJECTS` of all tasks."""

    csv: Path
    """The table that the rejects belong to."""


def explain_set(network: TrainedNetwork, data: DataConfig, set_name: str, request: ExplanationRequest, out_dir: Path | None
                ) -> ExplainedSet:
    """Explain the ears of a set for each task that the data settings name, and write pictures and tables.

    out_dir: replaces the run's reports. Raises UserError if the set has no ear.
    """
    tasks, reports = network.select_tasks(data), out_dir or network.run.reports
    ears = network.open_set(data, set_name, tasks)
    name, rejects, explained = f"explanations_{set_label(set_name, data)}", [ears.rejects], []
    calibrations = network.calibrations(tasks)
    for task in tasks:
        own = ears.ears[task.targets(ears.ears.label_code.to_numpy()) != OUTSIDE]
        label = with_task_name(name, task, network.tasks)
        done = explain_ears(network, ears.store, own, task, reports / label, request, calibrations[task.name])
        tables.EXPLANATIONS.write(reports / f"{label}.csv", done.table)
        rejects.append(done.rejects)
        explained.append(TaskExplanations(task, len(own), done, reports / f"{label}.csv"))
    if ears.cohort and data.limit is None and out_dir is None:
        ears.cohort.write(reports)
    return ExplainedSet(explained, tables.REJECTS.frame(pd.concat(rejects, ignore_index=True)), reports / f"{name}.csv")

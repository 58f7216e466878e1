"""A trained network on exams that no table knows: read, checked against what it was trained on, cut, predicted, explained.

Each exam is looked at by itself, so that an answer does not depend on what else lies in the folder. What may not be answered is
refused with a reason; what is doubtful about an answer is flagged.
"""
import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from medical_fenlei import settings
from medical_fenlei.config import PREPROCESSING_VERSION, EarSpec
from medical_fenlei.data.storage import ahead
from medical_fenlei.dicom.volume import Series, inside, read_headers
from medical_fenlei.ears.build import NOT_IN_SCAN
from medical_fenlei.ears.prepare import EarVolume, prepare_ears
from medical_fenlei.ears.scan_view import ScanView, box_corners, outline, place
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.explanations.maps import Explanation, explain
from medical_fenlei.files import sha256
from medical_fenlei.ingest.exams import LooseExam, refuse_several_patients
from medical_fenlei.ingest.manifest import header_facts
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_choice import SeriesRules
from medical_fenlei.log import LOG
from medical_fenlei.metrics.predictions import probabilities
from medical_fenlei.new_exams.answers import EarAnswer, ExamAnswer, Said, Slice, TaskAnswer
from medical_fenlei.new_exams.scope import Scope, scope_of
from medical_fenlei.parallel import Outcome, Workers, map_items
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import Calibration, Fitted, uncalibrated
from medical_fenlei.trained.network import Trained
from medical_fenlei.training.predict import Inferred, look, tables_of
from medical_fenlei.vocabulary import SIDES, UNLABELLED, Side

ANSWER_VERSION = 1
"""Raised whenever the code answers otherwise: answers that were written before are then made anew."""

AT_ONCE = 2
"""So many exams a process are cut ahead of the network: what is in memory does not grow with their number."""

LOW_CONFIDENCE, PADDED, NEAR = 0.5, 0.05, 0.05
"""Flagged: confidence of the place below, share beyond the scan above, probability nearer to its threshold."""

SERIES_WORDS = {"localizer": "a scout", "not_axial": "not axial", "too_thick": "with slices too far apart",
                "too_few_slices": "with too few slices", "too_low": "too low to show an ear",
                "single_ear": "of one ear, without one of the other", "refused_by_rules": "refused by --series-rules"}


@dataclass(frozen=True)
class Look:
    """The slice of a series through its ears, and what was cut around them."""

    view: ScanView
    outlines: dict[Side, np.ndarray]
    """(P, 2), rows and columns."""

    centres: dict[Side, tuple[float, float]]
    """Row and column."""


@dataclass(frozen=True)
class Pictures:
    """What can be drawn of an answer."""

    looks: tuple[Look, ...] = ()
    explained: dict[tuple[Side, str], Explanation] = field(default_factory=dict)
    """By side and task."""


@dataclass(frozen=True)
class _Todo:
    exam_id: str
    parts: tuple[tuple[str, tuple[Side, ...]], ...]
    """Series below the base, each with the ears that it has to give."""


@dataclass(frozen=True)
class _Judged:
    """Of each ear what is against it, what is passed over by --force; and what there is to cut."""

    against: dict[Side, Said | None]
    forced: dict[Side, list[Said]]
    todo: _Todo


@dataclass
class _Cut:
    ears: dict[Side, EarVolume] = field(default_factory=dict)
    refused: dict[Side, tuple[str, str]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)


def cut_exam(base: Path, spec: EarSpec, todo: _Todo) -> _Cut:
    """The ears of an exam, and a look at where they were. What is wrong with a series concerns its ears alone."""
    cut = _Cut()
    for relpath, sides in todo.parts:
        try:
            headers, _ = read_headers(inside(base, relpath))
            refuse_several_patients(sorted({header.path for header in headers}))
            series = Series(headers)
            with threadpool_limits(1, user_api="blas"):          # small matrices: threads would only wait for one another
                found = prepare_ears(series, spec, sides)
        except Rejected as rejected:
            cut.refused |= dict.fromkeys(sides, (rejected.reason, rejected.detail))
            continue
        cut.ears |= found
        cut.refused |= {side: NOT_IN_SCAN for side in sides if side not in found}
        if found:
            cut.looks.append(_look_at(series, found))
    return cut


def _look_at(series: Series, ears: Mapping[Side, EarVolume]) -> Look:
    places = {side: place(np.array(ear.facts["localization"]["ear_centre"]), series.affine) for side, ear in ears.items()}
    k = int(np.clip(np.rint(np.mean([at[0] for at in places.values()])), 0, series.shape[0] - 1))
    outlines = {side: outline(box_corners(np.array(ear.facts["affine_lps"]), ear.volume.shape, series.affine), k)
                for side, ear in ears.items()}
    return Look(ScanView(series.slice(k), k, series.affine), outlines,
                {side: (float(at[1]), float(at[2])) for side, at in places.items()})


@dataclass
class Predictor:
    """A network with its calibration and its scope, ready to answer."""

    trained: Trained
    digest: str
    """SHA-256 of its checkpoint."""

    scope: Scope
    tasks: tuple[Task, ...]
    """Those of the network that are asked for."""

    fitted: dict[str, Fitted]
    """Of each of them."""

    calibrated: frozenset[str]
    """Names of those that calibrate_ear2d fitted."""

    top: int
    """Slices to explain; 0 for no explanation."""

    force: bool
    method: str = "hirescam"
    """Of the overlays; `integrated` points better, and takes some ten times as long."""

    explains: bool = True

    @classmethod
    def of(cls, trained: Trained, checkpoint: Path, *, tasks: tuple[Task, ...], rules: SeriesRules, point: str | None, top: int,
           force: bool, method: str = "hirescam") -> "Predictor":
        """Raises UserError: a calibration of another checkpoint, or an operating point that a task does not have."""
        found = Calibration.of(checkpoint)
        known = found.tasks if found else {}
        fitted = {**uncalibrated(tasks), **{task.name: known[task.name] for task in tasks if task.name in known}}
        if point is not None:
            fitted = {task.name: fitted[task.name].at(point) if task.binary else fitted[task.name] for task in tasks}
        return cls(trained, found.checkpoint if found else sha256(checkpoint), scope_of(trained, rules), tasks, fitted,
                   frozenset(known), top, force, method)

    def key(self, exam: LooseExam) -> str:
        """Of the answer to come."""
        chosen = exam.choice.chosen
        all_that_counts = (
            ANSWER_VERSION, PREPROCESSING_VERSION, self.digest, [task.name for task in self.tasks],
            sorted((name, asdict(own)) for name, own in self.fitted.items()), sorted(self.calibrated), self.top, self.method,
            self.force,
            self.scope.plain(), asdict(self.scope.rules), exam.exam_id, exam.stamp,
            [series.relpath for series in chosen.series] if chosen else exam.choice.verdicts, exam.problems)
        return hashlib.sha256(repr(all_that_counts).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def answers(self, base: Path, exams: Sequence[LooseExam], *, workers: Workers
                ) -> Generator[tuple[ExamAnswer, Pictures], None, None]:
        """Of each exam, in their order; a few are cut by `workers` while the network looks at those before them."""
        judged = {exam.exam_id: self._judged(exam) for exam in exams}
        size = AT_ONCE * (max(1, workers) if isinstance(workers, int) else AT_ONCE)
        cutting = functools.partial(cut_exam, base, self.trained.config.ears)

        def cut() -> Generator[list[tuple[LooseExam, Outcome[_Todo, _Cut]]], None, None]:
            for first in range(0, len(exams), size):
                some = exams[first:first + size]
                todo = [judged[exam.exam_id].todo for exam in some]
                yield list(zip(some, map_items(cutting, todo, workers=workers, label="ears"), strict=True))

        with contextlib.closing(ahead(cut())) as coming:
            for chunk in coming:
                for exam, outcome in chunk:
                    yield self._answer(exam, judged[exam.exam_id], outcome)

    def _judged(self, exam: LooseExam) -> "_Judged":
        """Before a pixel is read. --force passes over the network's limits, never a missing series or a mixture of people."""
        chosen, why = exam.choice.chosen, None
        if exam.several_patients:
            why = Said(code="several_patients", text=_sentence("several_patients", ""))
        elif chosen is None:
            why = Said(code="no_series", text=_why_none(exam))
        if why is not None or chosen is None:
            return _Judged(dict.fromkeys(SIDES, why), {side: [] for side in SIDES}, _Todo(exam.exam_id, ()))
        found = {side: self.scope.refusals(chosen.of(side)) for side in SIDES}
        against = {side: own[0] if own and not self.force else None for side, own in found.items()}
        parts: dict[str, tuple[Side, ...]] = {}
        for side in SIDES:
            if against[side] is None:
                relpath = chosen.of(side).relpath
                parts[relpath] = (*parts.get(relpath, ()), side)
        return _Judged(against, {side: own if self.force else [] for side, own in found.items()},
                       _Todo(exam.exam_id, tuple(parts.items())))

    def _answer(self, exam: LooseExam, judged: "_Judged", outcome: Outcome[_Todo, _Cut]) -> tuple[ExamAnswer, Pictures]:
        chosen, cut = exam.choice.chosen, outcome.value or _Cut(refused=dict.fromkeys(SIDES, (outcome.reason, outcome.detail)))
        predicted, explained = self._predict(exam.exam_id, cut.ears) if cut.ears else ({}, {})
        ears = []
        for side in SIDES:
            why = judged.against[side]
            if why is None and side in cut.refused:
                code, detail = cut.refused[side]
                why = Said(code=code, text=exam.private.hide(_sentence(code, detail)))
            facts = self._facts(chosen.of(side), cut.ears.get(side)) if chosen else {}
            if why is not None or chosen is None:
                ears.append(EarAnswer(side=side, refused=why, facts=facts))
                continue
            flags = [*_near(predicted[side]), *self.scope.flags(chosen.of(side), exam.age_years),
                     *self._flags(exam, chosen.of(side), cut.ears[side])]
            ears.append(EarAnswer(side=side, forced=judged.forced[side], flags=flags, facts=facts, tasks=predicted[side]))
        answer = ExamAnswer(exam_id=exam.exam_id, key=self.key(exam), ears=ears, scan_picture="scan.png" if cut.looks else "")
        return answer, Pictures(tuple(cut.looks), explained)

    def _predict(self, exam_id: str, ears: Mapping[Side, EarVolume]
                 ) -> tuple[dict[Side, list[TaskAnswer]], dict[tuple[Side, str], Explanation]]:
        found = _infer(self.trained, np.stack([ear.volume for ear in ears.values()]))
        rows = pd.DataFrame({"exam_id": exam_id, "side": [str(side) for side in ears], "patient_key": exam_id,
                             "label_code": np.int8(UNLABELLED)})
        by_task = tables_of(found, rows, self.trained.tasks)
        answers: dict[Side, list[TaskAnswer]] = {side: [] for side in ears}
        explained = {}
        for task in self.tasks:
            fitted = self.fitted[task.name]
            table = fitted.applied(by_task[task.name], task)
            for (side, ear), each, decided in zip(ears.items(), probabilities(table, task), table.y_pred, strict=True):
                answer = TaskAnswer(
                    task=task.name, classes=dict(zip(task.class_names, map(float, each), strict=True)),
                    codes=dict(zip(task.class_names, map(list, task.classes), strict=True)),
                    decision=task.class_names[int(decided)], threshold=fitted.threshold if task.binary else None,
                    point=fitted.point if task.binary else "", calibrated=task.name in self.calibrated)
                own = self._explain(ear, task, answer.decision)
                if own is not None:
                    explained[side, task.name] = own
                    answer = replace(answer, ranked_by=own.ranked_by, slices=_slices(own, ear), picture=(
                        f"{side}.png" if len(self.trained.tasks) == 1 else f"{side}_{task.name}.png"))
                answers[side].append(answer)
        return answers, explained

    def _explain(self, ear: EarVolume, task: Task, decision: str) -> Explanation | None:
        if not self.top or not self.explains:
            return None
        try:
            return explain(self.trained, ear.volume, np.array(ear.facts["affine_lps"]), task, methods=(self.method,),
                           top=self.top, target=decision)
        except UserError as error:                               # the same for every ear of this network
            self.explains = False
            LOG.warning("%s", f"no overlays: {error}")
            return None

    def _facts(self, series: SeriesScan, ear: EarVolume | None) -> dict[str, Any]:
        facts = header_facts(series)
        for name in ("series_relpath", "n_instances", "transfer_syntax"):
            del facts[name]
        facts |= {"images": series.images, "slices": series.slices, "height_mm": series.height, "tilt_deg": series.tilt,
                  "bone_kernel": self.scope.rules.is_bone(series)}
        if ear is not None:
            found = ear.facts["localization"]
            facts |= {"confidence": found["confidence"], "method": found["method"], "ear_centre_lps_mm": found["ear_centre"],
                      "padded_share": ear.facts["padded_share"], "affine_lps": ear.facts["affine_lps"]}
        return facts

    def _flags(self, exam: LooseExam, series: SeriesScan, ear: EarVolume) -> list[Said]:
        """What is doubtful about the scan and the place of the ear."""
        found, flags = ear.facts["localization"], []

        def flag(code: str, text: str) -> None:
            flags.append(Said(code=code, text=text))

        if found["method"] != "landmarks":
            flag("place_guessed", "The ear itself was not recognised; its place was taken "
                 + ("from the other side." if found["method"] == "mirrored" else "where the bone is deepest."))
        elif found["confidence"] < LOW_CONFIDENCE:
            flag("low_confidence", f"The ear was found with little confidence ({found['confidence']:.2f} of 1).")
        for reason in found["reasons"]:
            flag("place_doubtful", f"About its place: {reason}.")
        if ear.facts["padded_share"] > PADDED:
            flag("padded", f"{ear.facts['padded_share']:.0%} of what the network saw lies beyond the scan.")
        if not self.scope.rules.is_bone(series):
            flag("no_bone_kernel", f"Not a bone kernel ({series.kernel or 'not named'}).")
        if series.height < self.scope.rules.high_mm:
            flag("low_scan", f"The scan is only {series.height:.0f} mm high: a part of the ear may be missing.")
        for note in series.notes:
            code, _, detail = note.partition(": ")
            flag(code, {"cut_at_hole": "Slices are missing, the tallest part was used", "gantry_tilt": "The gantry was tilted",
                        "resampled": "Slices lie irregularly and were resampled"}.get(code, code) + f" ({detail}).")
        if exam.choice.chosen and len(exam.choice.chosen.series) > 1:
            flag("series_of_one_ear", "A reconstruction of this ear alone was used.")
        lost = Counter(reason for _, reason, _ in exam.problems if reason in LOST)
        for reason, number in sorted(lost.items()):
            flag(reason, f"{number} {LOST[reason]}.")
        return flags


LOST = {"split_series": "of its series go on in another folder, which was not joined",
        "damaged_header": "files of the exam are damaged", "unreadable": "files of the exam could not be read",
        "too_large": "files of the exam are too large", "bad_attribute": "images have impossible header values",
        "missing_attribute": "images lack a header value", "bad_size": "images have an impossible size"}
"""What an exam may lack because of its files."""


def _why_none(exam: LooseExam) -> str:
    words = [f"{SERIES_WORDS.get(reason, reason)} ({exam.private.hide(detail)})" for _, reason, detail in exam.choice.verdicts]
    if len(words) == 1:
        return f"Its only series is {words[0]}."
    return f"None of its {len(words)} series can be used: {'; '.join(words)}."


def _near(answers: Sequence[TaskAnswer]) -> list[Said]:
    near = [answer for answer in answers
            if answer.threshold is not None and abs([*answer.classes.values()][-1] - answer.threshold) < NEAR]
    return [Said(code="near_threshold", text="The probability lies close to the threshold"
                 + (f" ({answer.task})." if len(answers) > 1 else ".")) for answer in near]


def _sentence(code: str, detail: str) -> str:
    return {"ear_not_in_scan": "The scan does not reach this ear.",
            "implausible_hu": f"The values of the scan are no Hounsfield units ({detail}).",
            "several_patients": "Images of different patients lie in its series: take out what is not the exam's.",
            }.get(code, f"It could not be read ({code}: {detail}).")


def _slices(found: Explanation, ear: EarVolume) -> list[Slice]:
    affine, shown = np.array(ear.facts["affine_lps"]), []
    for k in found.slices:
        heat, weight = found.maps[0].heat[k], found.weights[k]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        middle, peak = (affine[:3] @ [k, *at, 1.0] for at in ((np.array(heat.shape) - 1) / 2, (row, column)))
        shown.append(Slice(k=int(k), z_mm=round(float(middle[2]), 2), weight=round(float(weight), 6),
                           peak_lps_mm=peak.round(2).tolist()))
    return shown


@torch.inference_mode()
def _infer(trained: Trained, volumes: np.ndarray) -> Inferred:
    """volumes: int16 HU (N, K, H, W)."""
    trained.model.eval()
    with trained.arithmetic.autocast():
        output = look(trained.model, torch.from_numpy(volumes).to(trained.arithmetic.device), trained.config.augment)
    attention = None if output.attention is None else output.attention.float().cpu().numpy()
    return Inferred(output.logits.double().cpu().numpy(), output.embedding.float().cpu().numpy(), attention)


def model_facts(predictor: Predictor, checkpoint: Path) -> dict[str, Any]:
    """What a report says of the network."""
    config = predictor.trained.config
    return {
        "checkpoint": checkpoint.name, "sha256": predictor.digest, "kind": config.kind,
        "epoch": predictor.trained.checkpoint.epoch, "backbone": config.model.backbone, "pooling": config.model.pooling,
        "preprocessing": config.ears.key, "ears": settings.to_json(config.ears),
        "tasks": {task.name: {"classes": dict(zip(task.class_names, map(list, task.classes), strict=True)),
                              "calibrated": task.name in predictor.calibrated,
                              "temperature": predictor.fitted[task.name].temperature,
                              "points": predictor.fitted[task.name].points,
                              "point": predictor.fitted[task.name].point if task.binary else ""}
                  for task in predictor.tasks},
        "trained_on": predictor.scope.plain(),
    }

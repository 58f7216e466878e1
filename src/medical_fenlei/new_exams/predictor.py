"""A trained network on exams that are in no table: screened, cropped, predicted, explained.

Each exam is processed by itself, so that its answer does not depend on what else is in the folder. An exam that must not be
answered is refused with a reason; what is doubtful about an answer is flagged.
"""
import contextlib
import functools
import hashlib
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medical_fenlei import settings
from medical_fenlei.anatomy.second_opinion import AnatomyCheck, SecondOpinion
from medical_fenlei.config import PREPROCESSING_VERSION
from medical_fenlei.data.transfer import prefetch
from medical_fenlei.ears.prepare import EarVolume
from medical_fenlei.explanations.maps import NOT_FINITE, Explanation, ExplanationRequest
from medical_fenlei.files import sha256
from medical_fenlei.ingest.exams import LooseExam
from medical_fenlei.ingest.manifest import header_facts
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.new_exams.answers import EarAnswer, ExamAnswer, Remark
from medical_fenlei.new_exams.cropping import CroppedEars, CropRequest, EarOverview, crop_ears
from medical_fenlei.new_exams.ear_predictor import EarPredictions, EarPredictor
from medical_fenlei.new_exams.remarks import near_threshold, no_ear, no_series, scan_flags
from medical_fenlei.new_exams.scope import Scope, scope_of
from medical_fenlei.outcomes import Outcome
from medical_fenlei.parallel import Workers, map_items
from medical_fenlei.tasks import Task
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.vocabulary import SIDES, Side

ANSWER_VERSION = 5
"""Raised when the code changes answers: those written before are then made again."""

EXAMS_PER_WORKER = 2
"""Exams that each process crops ahead of the network; limits the memory, however many exams there are."""


@dataclass(frozen=True)
class ExamEvidence:
    """What the pictures of an exam show."""

    overviews: tuple[EarOverview, ...] = ()
    explanations: dict[tuple[Side, str], Explanation] = field(default_factory=dict)
    """Explanation for each side and task."""


@dataclass(frozen=True)
class _Screening:
    """Which ears of an exam may be answered, as decided from the headers."""

    refused: dict[Side, Remark | None]
    forced: dict[Side, list[Remark]]
    """Limits of the network that --force overrides."""

    request: CropRequest


@dataclass(frozen=True)
class Predictor:
    """A network with its calibration and its scope, ready to answer exams."""

    ears: EarPredictor
    scope: Scope
    force: bool
    """Answer scans beyond the network's training set, too."""

    anatomy: AnatomyCheck = field(default_factory=AnatomyCheck)

    @classmethod
    def of(cls, network: TrainedNetwork, *, tasks: tuple[Task, ...], rules: SeriesRules, point: str | None = None,
           request: ExplanationRequest | None = None, force: bool = False) -> "Predictor":
        """Return a predictor of some tasks of a network.

        point: operating point of binary tasks, in place of the calibration's choice; request: how predictions are explained.
        Raises UserError for a calibration of another checkpoint, or an operating point that a task does not have.
        """
        ears = EarPredictor(network, tasks, network.calibrations(tasks, point=point), request)
        return cls(ears, scope_of(network, rules), force)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network's checkpoint."""
        return sha256(self.ears.network.path)

    def key(self, exam: LooseExam) -> str:
        """Return what identifies the answer: it changes with the exam's files, the checkpoint, and every setting."""
        chosen, ears = exam.choice.chosen, self.ears
        parts = (
            ANSWER_VERSION, PREPROCESSING_VERSION, self.digest, [task.name for task in ears.tasks],
            sorted((name, asdict(own)) for name, own in ears.calibrations.items()), sorted(ears.calibrated), ears.request,
            self.force, self.scope.to_dict(), asdict(self.scope.rules), exam.exam_id, exam.stamp,
            [series.relpath for series in chosen.series] if chosen else exam.choice.verdicts, exam.problems)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def answers(self, base: Path, exams: Sequence[LooseExam], *, workers: Workers
                ) -> Generator[tuple[ExamAnswer, ExamEvidence], None, None]:
        """Answer the exams in their order. `workers` crop a few of them ahead of the network."""
        screenings = {exam.exam_id: self._screen(exam) for exam in exams}
        chunk = EXAMS_PER_WORKER * (max(1, workers) if isinstance(workers, int) else EXAMS_PER_WORKER)
        crop = functools.partial(crop_ears, base, self.ears.network.config.ears)

        def cropped() -> Generator[list[tuple[LooseExam, Outcome[CropRequest, CroppedEars]]], None, None]:
            for first in range(0, len(exams), chunk):
                some = exams[first:first + chunk]
                requests = [screenings[exam.exam_id].request for exam in some]
                yield list(zip(some, map_items(crop, requests, workers=workers, label="ears"), strict=True))

        with contextlib.closing(prefetch(cropped())) as chunks:
            for outcomes in chunks:
                for exam, outcome in outcomes:
                    yield self._answer(exam, screenings[exam.exam_id], outcome)

    def _screen(self, exam: LooseExam) -> _Screening:
        """Decide before any pixel is read. --force overrides the network's limits, never a missing series or mixed patients."""
        chosen = exam.choice.chosen
        if exam.several_patients or chosen is None:
            why = no_ear("several_patients", "") if exam.several_patients else no_series(exam)
            return _Screening(dict.fromkeys(SIDES, why), {side: [] for side in SIDES}, CropRequest(exam.exam_id, ()))
        found = {side: self.scope.refusals(chosen.of(side)) for side in SIDES}
        refused = {side: own[0] if own and not self.force else None for side, own in found.items()}
        series: dict[str, tuple[Side, ...]] = {}
        for side in SIDES:
            if refused[side] is None:
                relpath = chosen.of(side).relpath
                series[relpath] = (*series.get(relpath, ()), side)
        return _Screening(refused, {side: own if self.force else [] for side, own in found.items()},
                          CropRequest(exam.exam_id, tuple(series.items())))

    def _answer(
        self, exam: LooseExam, screening: _Screening, outcome: Outcome[CropRequest, CroppedEars]
    ) -> tuple[ExamAnswer, ExamEvidence]:
        cropped = outcome.value or CroppedEars(refused=dict.fromkeys(SIDES, (outcome.reason, outcome.detail)))
        predicted = self.ears.predict(exam.exam_id, cropped.ears) if cropped.ears else EarPredictions()
        ears = [self._ear_answer(exam, side, screening, cropped, predicted) for side in SIDES]
        answer = ExamAnswer(exam_id=exam.exam_id, key=self.key(exam), ears=ears,
                            scan_picture="scan.png" if cropped.overviews else "")
        return answer, ExamEvidence(tuple(cropped.overviews), predicted.explanations)

    def _ear_answer(
        self, exam: LooseExam, side: Side, screening: _Screening, cropped: CroppedEars, predicted: EarPredictions
    ) -> EarAnswer:
        chosen, refused = exam.choice.chosen, screening.refused[side]
        if refused is None and side in cropped.refused:
            refused = no_ear(*cropped.refused[side], hide=exam.redactor.hide)
        elif refused is None and side not in predicted.answers:
            refused = no_ear(NOT_FINITE, "")
        ear = cropped.ears.get(side)
        opinion = None if ear is None else self.anatomy.look(
            ear.volume, ear.affine, np.array(ear.facts["localization"]["ear_centre"]))
        facts = self._facts(chosen.of(side), ear, opinion) if chosen else {}
        if refused is not None or chosen is None or ear is None or opinion is None:
            return EarAnswer(side=side, refused=refused, facts=facts)
        series, answers = chosen.of(side), predicted.answers[side]
        flags = [*near_threshold(answers), *self.scope.flags(series, exam.age_years),
                 *scan_flags(exam, series, ear, opinion, self.scope.rules)]
        return EarAnswer(side=side, forced=screening.forced[side], flags=flags, facts=facts, tasks=answers)

    def _facts(self, series: SeriesScan, ear: EarVolume | None, opinion: SecondOpinion | None) -> dict[str, Any]:
        """What `EarAnswer.facts` holds; ear and opinion: None if it was not cropped."""
        facts = header_facts(series)
        for name in ("series_relpath", "n_instances", "transfer_syntax"):
            del facts[name]
        facts |= {"images": series.images, "slices": series.slices, "z_coverage_mm": series.z_coverage, "tilt_deg": series.tilt,
                  "bone_kernel": self.scope.rules.is_bone(series)}
        if ear is not None:
            found = ear.facts["localization"]
            facts |= {"confidence": found["confidence"], "method": found["method"], "ear_centre_lps_mm": found["ear_centre"],
                      "padded_share": ear.facts["padded_share"], "affine_lps": ear.facts["affine_lps"]}
        if opinion is not None:
            facts |= {"anatomy_tympanum_lps_mm": opinion.tympanum_lps.round(2).tolist(),
                      "anatomy_apart_mm": round(opinion.apart_mm, 2), "anatomy_cavity_mm3": round(opinion.cavity_mm3)}
        return facts

    def model_facts(self) -> dict[str, Any]:
        """Return what a report says about the network, as values for JSON."""
        network, config = self.ears.network, self.ears.network.config
        return {
            "checkpoint": network.path.name, "sha256": self.digest, "kind": config.kind, "epoch": network.checkpoint.epoch,
            "backbone": config.model.backbone, "pooling": config.model.pooling, "preprocessing": config.ears.key,
            "ears": settings.to_json(config.ears), "tasks": {task.name: self._task_facts(task) for task in self.ears.tasks},
            "trained_on": self.scope.to_dict(),
        }

    def _task_facts(self, task: Task) -> dict[str, Any]:
        fitted = self.ears.calibrations[task.name]
        return {"classes": dict(zip(task.class_names, map(list, task.classes), strict=True)),
                "calibrated": task.name in self.ears.calibrated, "temperature": fitted.temperature, "points": fitted.points,
                "point": fitted.point if task.binary else ""}

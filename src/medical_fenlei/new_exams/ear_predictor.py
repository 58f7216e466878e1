"""Predict the tasks of a trained network for the ears of one exam, and explain the predictions."""
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from medical_fenlei.ears.prepare import EarVolume
from medical_fenlei.errors import UserError
from medical_fenlei.explanations.kept_pass import KeptPass
from medical_fenlei.explanations.maps import Explanation, ExplanationRequest, explain_pass, look_for
from medical_fenlei.log import LOG
from medical_fenlei.metrics.predictions import probabilities
from medical_fenlei.new_exams.answers import ExplainedSlice, TaskAnswer
from medical_fenlei.tables import source_images
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.predict import InferenceResult, forward_blocks, prediction_tables
from medical_fenlei.vocabulary import UNLABELLED, Side


@dataclass(frozen=True)
class EarPredictions:
    """The predictions for the ears of one exam."""

    answers: dict[Side, list[TaskAnswer]] = field(default_factory=dict)
    explanations: dict[tuple[Side, str], Explanation] = field(default_factory=dict)
    """Explanation for each side and task; empty if predictions are not explained."""


@dataclass
class EarPredictor:
    """A network with its calibration, ready to predict ears."""

    network: TrainedNetwork
    tasks: tuple[Task, ...]
    """The tasks of the network that are answered."""

    calibrations: dict[str, TaskCalibration]
    """Temperature and operating points of each task, by name."""

    request: ExplanationRequest | None
    """How predictions are explained; None if they are not."""

    explainable: bool = True
    """False once the network turned out to be one that cannot be explained so."""

    @property
    def calibrated(self) -> frozenset[str]:
        """Names of the tasks that have a calibration."""
        return frozenset(self.network.calibration.tasks if self.network.calibration else ())

    def predict(self, exam_id: str, ears: Mapping[Side, EarVolume]) -> EarPredictions:
        """Answer each task for each of at least one ear of an exam; an ear for which the output is not finite has no answer."""
        volumes = np.stack([ear.volume for ear in ears.values()])
        seen = self._look(volumes)
        inferred = _infer(self.network, volumes) if seen is None else seen.result
        answered = {side: ear for (side, ear), finite in zip(ears.items(), inferred.finite, strict=True) if finite}
        if not answered:
            return EarPredictions()
        rows = pd.DataFrame({"exam_id": exam_id, "side": [str(side) for side in answered], "patient_key": exam_id,
                             "label_code": np.int8(UNLABELLED)})
        by_task = prediction_tables(inferred.of_ears(inferred.finite), rows, self.network.tasks)
        predictions = EarPredictions({side: [] for side in answered})
        for task in self.tasks:
            table = self.calibrations[task.name].apply(by_task[task.name], task)
            answers = {side: self._answer(task, each, int(predicted)) for side, each, predicted in
                       zip(answered, probabilities(table, task), table.y_pred, strict=True)}
            explanations = self._explain(seen, ears, task, answers) if seen is not None else {}
            for side, answer in answers.items():
                if side in explanations:
                    picture = f"{side}.png" if len(self.network.tasks) == 1 else f"{side}_{task.name}.png"
                    explanation = predictions.explanations[side, task.name] = explanations[side]
                    answer = replace(answer, ranked_by=explanation.ranked_by, picture=picture,
                                     slices=_explained_slices(explanation, ears[side]))
                predictions.answers[side].append(answer)
        return predictions

    def _answer(self, task: Task, each: np.ndarray, predicted: int) -> TaskAnswer:
        """The answer without an explanation; each: probability of each class."""
        fitted = self.calibrations[task.name]
        return TaskAnswer(
            task=task.name, classes=dict(zip(task.class_names, map(float, each), strict=True)),
            codes=dict(zip(task.class_names, map(list, task.classes), strict=True)), decision=task.class_names[predicted],
            threshold=fitted.threshold if task.binary else None, point=fitted.point if task.binary else "",
            calibrated=task.name in self.calibrated)

    def _look(self, volumes: np.ndarray) -> KeptPass | None:
        """Run the network over ears and keep what explains them; None where nothing is, or can be, explained."""
        if self.request is None or not self.explainable:
            return None
        try:
            return look_for(self.network, volumes, self.request)
        except UserError as error:                               # the same for every ear of this network
            self.explainable = False
            LOG.warning("no overlays: %s", error)
            return None

    def _explain(self, seen: KeptPass, ears: Mapping[Side, EarVolume], task: Task, answers: Mapping[Side, TaskAnswer]
                 ) -> dict[Side, Explanation]:
        """Explain the decision for each ear; without those whose map is not finite."""
        assert self.request is not None
        decided = [answers[side].decision if side in answers else task.class_names[0] for side in ears]
        found = explain_pass(seen, [ear.affine for ear in ears.values()], task, self.request, decided)
        return {side: own for side, own in zip(ears, found, strict=True) if own is not None}


def _explained_slices(explanation: Explanation, ear: EarVolume) -> list[ExplainedSlice]:
    slices, images = [], source_images(ear.facts, len(ear.volume))
    for k in map(int, explanation.slices):
        heat = explanation.maps[0].heat[k]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        middle, peak = ear.affine.slice_centre(k, explanation.grey.shape), ear.affine.apply([k, row, column])
        slices.append(ExplainedSlice(k=k, z_mm=round(float(middle[2]), 2), image=images[k].number,
                                     image_z_mm=images[k].z_mm, weight=round(float(explanation.weights[k]), 6),
                                     peak_lps_mm=peak.round(2).tolist()))
    return slices


@torch.inference_mode()
def _infer(network: TrainedNetwork, volumes: np.ndarray) -> InferenceResult:
    """The network's outputs for int16 HU volumes (N, K, H, W)."""
    network.model.eval()
    with network.compute.autocast():
        output = forward_blocks(network.model, torch.from_numpy(volumes).to(network.compute.device), network.config.augment)
    attention = None if output.attention is None else output.attention.float().cpu().numpy()
    return InferenceResult(output.logits.double().cpu().numpy(), output.embedding.float().cpu().numpy(), attention)

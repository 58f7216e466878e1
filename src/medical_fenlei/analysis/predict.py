"""The one prediction writer: from a network and a set of ears to one row an ear."""
import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.data.augment import window
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.loaders import batches, cut
from medical_fenlei.metrics.binary import THRESHOLD, BinaryMeasures
from medical_fenlei.metrics.bootstrap import Measures
from medical_fenlei.metrics.multiclass import MulticlassMeasures
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.training.config import AugmentConfig
from medical_fenlei.training.device import Arithmetic

TOP_SLICES = 5
"""How many slices a prediction names."""


def class_names(task: Task) -> list[str]:
    """The code of each class, as in the columns `prob_<code>`."""
    return ["_".join(map(str, codes)) for codes in task.classes]


@torch.inference_mode()
def predict(
    model: Ear2d, dataset: EarDataset, task: Task, *, augment: AugmentConfig, arithmetic: Arithmetic, batch_size: int
) -> pd.DataFrame:
    """`tables.PREDICTIONS`, a row for each ear that is present, in the order of the dataset. The model is left in eval mode.

    y_true is OUTSIDE for an ear that the task does not concern. Slices are numbers k in the cached volume, most attended first.
    """
    model.eval()
    logits, weights = [], []
    for batch in batches(dataset, cut(np.arange(len(dataset)), batch_size), arithmetic.device):
        with arithmetic.autocast():
            output = model(window(batch.volume[batch.present], augment))
        logits.append(output.logits)
        weights.append(output.attention)
    ears = dataset.ears_in_order
    score = torch.cat(logits).double().cpu() if logits else torch.zeros(0, task.outputs, dtype=torch.float64)
    attention = torch.cat(weights).cpu().numpy() if weights and weights[0] is not None else None
    target = task.targets(ears.label_code.to_numpy())
    frame = ears[["exam_id", "side", "patient_key", "label_code"]].assign(y_true=target.astype(np.int64))
    if task.binary:
        probability = score[:, 0].sigmoid().numpy()
        frame = frame.assign(y_prob=probability, y_pred=(probability >= THRESHOLD).astype(np.int64))
    else:
        each = score.softmax(1).numpy()
        frame = frame.assign(y_prob=each.max(1), y_pred=each.argmax(1))
        frame = frame.assign(**{f"prob_{name}": p for name, p in zip(class_names(task), each.T, strict=True)})
    numbers, shares = zip(*map(_top, attention), strict=True) if attention is not None and len(attention) else ("", "")
    return tables.PREDICTIONS.frame(frame.assign(top_slices=numbers, top_slice_weights=shares).reset_index(drop=True))


def _top(attention: np.ndarray) -> tuple[str, str]:
    top = np.argsort(-attention, kind="stable")[:TOP_SLICES]
    return ";".join(map(str, top)), ";".join(f"{attention[k]:.4f}" for k in top)


def probabilities(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """(N, C), the probability of each class of the task."""
    if task.binary:
        return np.column_stack([1 - predictions.y_prob, predictions.y_prob])
    return predictions[[f"prob_{name}" for name in class_names(task)]].to_numpy()


def measures_of(predictions: pd.DataFrame, task: Task) -> Measures:
    """The numbers of these predictions as a function of the ears' weights. Rows outside the task weigh nothing."""
    valid = (predictions.y_true != OUTSIDE).to_numpy()
    known = predictions[valid]
    if task.binary:
        measures: Measures = BinaryMeasures(known.y_true.to_numpy(), known.y_prob.to_numpy())
    else:
        measures = MulticlassMeasures(known.y_true.to_numpy(), probabilities(known, task), class_names(task))
    return lambda weight: measures(weight[:, valid])


def surprise(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """(N,), -ln of the probability that was given to the truth; NaN where the task does not concern the ear."""
    truth = predictions.y_true.to_numpy()
    given = probabilities(predictions, task)[np.arange(len(truth)), np.maximum(truth, 0)]
    return np.where(truth == OUTSIDE, np.nan, -np.log(np.maximum(given, 1e-12)))


def hard_cases(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Those that are wrong, the most confident first, with `surprise`."""
    frame = predictions.assign(surprise=surprise(predictions, task))
    wrong = frame[(frame.y_true != OUTSIDE) & (frame.y_true != frame.y_pred)]
    return wrong.sort_values("surprise", ascending=False, kind="stable")

"""Which epoch is kept as the best: by a measure of the tune set or, where that is too small, by something steadier."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medical_fenlei.set_sizes import EPOCHS_AVERAGED, TO_CHOOSE_EPOCH, SetSize
from medical_fenlei.tasks import Task

LOWER_IS_BETTER = {"loss", "val_loss"}
MEAN_LOSS, LAST = "mean_loss", "last_epoch"
"""Instead of a measure: the tune loss averaged over the last EPOCHS_AVERAGED epochs; the last epoch."""


@dataclass(frozen=True)
class EpochChoice:
    """How the best epoch is chosen."""

    by: str
    """A measure of `TrainConfig.early_stop_metric`, MEAN_LOSS or LAST."""

    @classmethod
    def on(cls, tune: pd.DataFrame | None, tasks: Sequence[Task], metric: str) -> "EpochChoice":
        """Choose by this measure if the tune set (manifest rows; None: there is none) is large enough for one of the tasks.

        Without a tune set, or with ears of a single class, the last epoch is kept.
        """
        enough = 0 if tune is None else max(SetSize.of(tune, task).beside_largest for task in tasks)
        return cls(metric if enough >= max(TO_CHOOSE_EPOCH, 1) else MEAN_LOSS if enough else LAST)

    @property
    def on_tune(self) -> bool:
        """Whether the tune set chooses, so that it may also end training."""
        return self.by != LAST

    @property
    def words(self) -> str:
        """What chooses, in words."""
        return {MEAN_LOSS: f"loss of the tune set, averaged over {EPOCHS_AVERAGED} epochs", LAST: "the last one"}.get(
            self.by, f"{self.by.removeprefix('val_')} of the tune set")

    def value(self, line: Mapping[str, Any], losses: Sequence[float]) -> float:
        """Return the measure of an epoch; NaN if it is undefined. line: of `metrics.jsonl`; losses: the tune loss up to it."""
        if self.by == LAST:
            return math.nan
        if self.by == MEAN_LOSS:
            recent = losses[-EPOCHS_AVERAGED:]
            return sum(recent) / len(recent)
        value: float = line.get(f"tune_{self.by.removeprefix('val_')}", math.nan)
        return value

    def rank(self, value: float, loss: float) -> tuple[float, float]:
        """Return the rank of an epoch: its measure and, among equals, its tune loss, signed so that higher is better.

        An undefined measure ranks below any value.
        """
        lower = self.by in {*LOWER_IS_BETTER, MEAN_LOSS}
        return (-math.inf if math.isnan(value) else -value if lower else value), -loss

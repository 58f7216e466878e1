"""All settings of a run, and the presets of the two routes."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medical_fenlei import settings
from medical_fenlei.config.augment import AugmentConfig
from medical_fenlei.config.data import DataConfig
from medical_fenlei.config.ears import EarSpec
from medical_fenlei.config.model import SIZE_STEP, SLICE_ATTENTION, ModelConfig
from medical_fenlei.config.training import LONG_TAIL, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run; `config.json` and every checkpoint contain them."""

    data: DataConfig = field(default_factory=DataConfig)
    ears: EarSpec = field(default_factory=EarSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        (seen, _, size, _), cached = self.input_shape, self.ears.num_slices
        slices, edge = SIZE_STEP.get(self.model.model, (1, 1))
        for name, value, step in ((f"{'model' if self.augment.model_slices else 'num'}-slices", seen, slices),
                                  ("image-size", size, edge)):
            if value % step:
                raise ValueError(f"{name}: got {value}, {self.model.model} takes multiples of {step}")
        if seen > cached:
            raise ValueError(f"model-slices: got {seen}, expected at most the {cached} of --num-slices")
        if self.augment.slice_context and self.model.model not in SLICE_ATTENTION:
            raise ValueError(f"slice-context: got {self.augment.slice_context} with --model {self.model.model}, which sees "
                             "neighboring slices anyway; leave it at 0, or take a slice_attention network")
        if self.several_tasks and self.training.balance == "sampler":
            raise ValueError("balance: sampler cannot balance several tasks at once; take --balance loss or none")

    @property
    def several_tasks(self) -> bool:
        """Whether --label-task names more than one task."""
        return "," in self.data.label_task.replace("，", ",")

    @property
    def balancing(self) -> Literal["sampler", "loss", "none"]:
        """`training.balance` with auto resolved."""
        if self.training.balance != "auto":
            return self.training.balance
        if self.training.loss in LONG_TAIL:
            return "none"
        return "loss" if self.several_tasks else "sampler"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape (K, C, H, W) of an ear as the network takes it; K is --model-slices if given."""
        cached, height, width = self.ears.shape
        return self.augment.model_slices or cached, self.augment.channels, height, width

    @property
    def kind(self) -> str:
        """Kind of the checkpoints that this run writes: EAR2D or DUAL."""
        return EAR2D if self.data.sample == "ear" else DUAL


EAR2D, DUAL = "ear2d", "dual"
"""Kinds of checkpoint: a sample is one ear, or both ears of an exam."""
EAR_ROUTE = RunConfig()
DUAL_ROUTE = RunConfig(
    data=DataConfig(sample="exam", cache_dir=Path("cache/dual_volumes"), label_task="six_class"),
    ears=EarSpec(extent="half"),
    model=ModelConfig(model="dual_resnet10_3d"),
    training=TrainConfig(batch_size=4, early_stop_metric="macro_f1"),
)
"""Presets of the main route and the dual route; the routes differ in nothing else."""


def decisive_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the result of a run, as plain values: without those of the machine and what --auto-batch
    found."""
    plain = settings.to_json(config)
    for name in ("num_workers", "read_workers", "data_on"):
        del plain["data"][name]
    if config.training.auto_batch:
        del plain["training"]["batch_size"]
    return plain

"""All settings of a run, and the presets of the two routes."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medical_fenlei import settings
from medical_fenlei.config.augment import BONE, AugmentConfig
from medical_fenlei.config.data import DataConfig
from medical_fenlei.config.ears import EarSpec
from medical_fenlei.config.model import ANATOMY, SIZE_STEP, SLICE_ATTENTION, ModelConfig, PhysicalScale
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
        if self.uses_anatomy and (BONE not in self.augment.windows or self.augment.slice_context or self.augment.model_slices):
            raise ValueError(f"backbone: {ANATOMY} sees the whole ear in the {BONE} window; leave out --slice-context and "
                             f"--model-slices, and keep {BONE} in --windows")
        if self.several_tasks and self.training.balance == "sampler":
            raise ValueError("balance: sampler cannot balance several tasks at once; take --balance loss or none")

    def require_fitting_cache(self) -> None:
        """Raise ValueError if the network cannot use ears that were cut out like this, whichever cache is meant."""
        if self.uses_anatomy and self.ears.voxel_mm is None:
            raise ValueError(f"--backbone {ANATOMY} needs voxels that have one size in mm in all series; build a cache with "
                             "--sampling roi --crop-mm 64, or with --sampling roi --target-spacing MM")

    @property
    def uses_anatomy(self) -> bool:
        """Whether the network is the one that knows the structures of the ear."""
        return self.model.model in SLICE_ATTENTION and self.model.backbone == ANATOMY

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
    def trains_head_alone(self) -> bool:
        """Whether the backbone stays as it is: `training.trainable` with auto resolved."""
        chosen = self.training.trainable
        return self.uses_anatomy if chosen == "auto" else chosen == "head"

    @property
    def physical_scale(self) -> PhysicalScale | None:
        """What the input stands for; None where its voxels have another size in each series, or it has no bone window."""
        voxel_mm, seen = self.ears.voxel_mm, self.augment
        if voxel_mm is None or BONE not in seen.windows:
            return None
        return PhysicalScale(voxel_mm, seen.wl, seen.ww, channel=seen.windows.index(BONE))

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

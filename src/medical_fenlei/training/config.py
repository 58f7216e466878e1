"""Every setting of a training run, each typed once. No import of torch here: the flags and `--help` come from these classes."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medical_fenlei import parallel
from medical_fenlei.ears.spec import EarSpec


def _at_least(settings: object, low: float, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= low:                  # so that NaN is refused too
            raise ValueError(f"{name.replace('_', '-')}: got {getattr(settings, name)}, expected at least {low:g}")


SLICE_ATTENTION = ("slice_attention", "dual_slice_attention")
"""The ear route's network under its name on each route."""
SIZE_STEP = {"dual_unet_3d": (16, 16), "dual_vit_3d": (4, 16)}
"""Networks whose strides or patches have to divide slices and edge of the volume."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which ears, which labels."""

    sample: Literal["ear", "exam"] = "ear"
    """Each ear by itself, or both ears of an exam, each through the same weights."""

    splits_root: Path = Path("artifacts/splits_dual")
    """Holds 1pct/ 20pct/ 100pct/."""

    pct: int = 20
    """Which amount of training data, percent."""

    manifest_csv: Path = Path("artifacts/manifest_ears.csv")
    """One row an ear."""

    dicom_base: Path = Path("data/medical_data_2")
    """The extracted DICOM; read only for ears that the cache lacks."""

    cache_dir: Path = Path("cache/ears_hu")
    """Holds one folder a preprocessing."""

    label_task: str = "normal_vs_abnormal"
    """What to tell apart: a task's name or its Chinese alias."""

    num_workers: int = field(default=parallel.default_workers())
    """Processes that prepare ears which the cache lacks."""

    limit: int | None = None
    """Only the first N ears (on the dual route exams) of each set, to try things out."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            _at_least(self, 1, "limit")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    model: Literal[
        "slice_attention", "dual_slice_attention", "dual_resnet10_3d", "dual_resnet18_3d", "dual_resnet34_3d",
        "dual_resnet50_3d", "dual_resnet101_3d", "dual_resnet152_3d", "dual_resnet200_3d", "dual_unet_3d", "dual_vit_3d",
    ] = "slice_attention"
    """A 2D encoder for each slice, then one vector an ear (slice_attention, the same on both routes), or a 3D network."""

    weights: Path | None = None
    """Weights of a 3D network from a file (.safetensors or .pt; MedicalNet's names are understood)."""

    backbone: str = "resnet18"
    """Encoder of a slice, any timm name (slice_attention)."""

    pooling: Literal["mean", "max", "attention", "gated_attention", "transformer"] = "attention"
    """How the slices of an ear become one vector (slice_attention)."""

    pretrained: bool = False
    """Fetch the backbone's published weights (needs the network)."""

    backbone_weights: Path | None = None
    """The backbone's weights from a file (.safetensors or .pt), for servers without internet."""

    dropout: float = 0.2
    """Share of the pooled vector that is dropped in training."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, expected 0 up to 1")
        if self.pretrained and self.backbone_weights:
            raise ValueError("pretrained: either this or --backbone-weights, not both")
        if self.model in SLICE_ATTENTION and self.weights:
            raise ValueError(f"weights: is for 3D networks; {self.model} takes --backbone-weights")
        if self.model not in SLICE_ATTENTION and (self.pretrained or self.backbone_weights):
            raise ValueError(f"{'pretrained' if self.pretrained else 'backbone-weights'}: {self.model} has no 2D backbone; "
                             "its weights come from --weights FILE")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The window, and how far training strays from it. Each is drawn once a sample, the same for all its slices."""

    wl: float = 500.0
    """Window level, HU."""

    ww: float = 3000.0
    """Window width, HU."""

    jitter_level: float = 200.0
    """The level moves by up to this much either way, HU."""

    jitter_width: float = 0.2
    """The width is multiplied by 1 ± up to this."""

    rotate_deg: float = 10.0
    """In-plane rotation, up to this many degrees either way."""

    shift: float = 0.06
    """In-plane shift, up to this share of the edge either way."""

    scale: float = 0.1
    """In-plane scale, 1 ± up to this."""

    noise: float = 0.03
    """Standard deviation of added noise, up to this, in units of half a window."""

    blur: float = 0.5
    """Up to this share of the image is replaced by its 3 × 3 binomial blur."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "ww")
        _at_least(self, 0, "jitter_level", "jitter_width", "rotate_deg", "shift", "scale", "noise", "blur")
        for name in ("jitter_width", "scale", "blur"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is fitted."""

    epochs: int = 30
    """At most this many."""

    batch_size: int = 16
    """Samples a step: ears, on the dual route exams."""

    auto_batch: bool = False
    """Find by trying the largest batch that fits (and leaves a few steps an epoch), in place of --batch-size."""

    lr: float = 1e-3
    """Highest learning rate of AdamW, reached after the warm-up; a cosine takes it to zero."""

    weight_decay: float = 0.02
    """Of AdamW; biases and normalisation are spared."""

    warmup_epochs: float = 1.0
    """Linear warm-up."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    label_smoothing: float = 0.05
    """Targets are pulled this far from 0 and 1."""

    balance: Literal["sampler", "loss", "none"] = "sampler"
    """Against unequal classes: draw them equally often, or weigh the loss (pos_weight), never both."""

    early_stop_metric: Literal["auprc", "auroc", "macro_f1", "macro_recall", "accuracy", "loss", "val_loss"] = "auprc"
    """Chooses best.pt and stops; measured on the tune set (val_loss is the loss there)."""

    patience: int = 8
    """Epochs without a better one before training stops; 0 for never."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto takes bf16 where the device computes in it."""

    seed: int = 42
    """Of every random choice."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "batch_size")
        _at_least(self, 0, "lr", "weight_decay", "warmup_epochs", "clip_norm", "patience", "seed")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label-smoothing: got {self.label_smoothing}, expected 0 up to 0.5")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run. `config.json` and every checkpoint hold it whole."""

    data: DataConfig = field(default_factory=DataConfig)
    ears: EarSpec = field(default_factory=EarSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        slices, edge = SIZE_STEP.get(self.model.model, (1, 1))
        for name, value, step in (("num-slices", self.ears.num_slices, slices), ("image-size", self.ears.image_size, edge)):
            if value % step:
                raise ValueError(f"{name}: got {value}, {self.model.model} takes multiples of {step}")

    @property
    def kind(self) -> str:
        """The family of checkpoints that this run writes."""
        return EAR2D if self.data.sample == "ear" else DUAL


EAR2D, DUAL = "ear2d", "dual"
"""Kinds of checkpoint: one ear a sample, or both ears of an exam."""

EAR_ROUTE = RunConfig()
DUAL_ROUTE = RunConfig(
    data=DataConfig(sample="exam", cache_dir=Path("cache/dual_volumes"), label_task="six_class"),
    ears=EarSpec(extent="half"),
    model=ModelConfig(model="dual_resnet10_3d"),
    training=TrainConfig(batch_size=4, early_stop_metric="macro_f1"),
)
"""The presets in which the two routes differ."""

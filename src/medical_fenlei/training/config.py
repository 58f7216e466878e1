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
    """What to tell apart: a task's name or its Chinese alias; or several at once, `one,two`, each with a head of its own."""

    num_workers: int = field(default=parallel.default_workers())
    """Processes that prepare ears which the cache lacks."""

    data_on: Literal["auto", "device", "memory", "disk"] = "auto"
    """Where the ears live: on the accelerator, in host memory, or read from disk; auto takes the first of these in which all
    sets of the run fit and leave room for the network. On a CPU, device is memory without a thread that works ahead."""

    read_workers: int = 4
    """Threads that read ears from disk."""

    limit: int | None = None
    """Only the first N ears (on the dual route exams) of each set, to try things out."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "read_workers")
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


BONE = "bone"
"""The window of --wl and --ww."""
WINDOWS = {"soft": (40.0, 400.0), "wide": (1000.0, 4000.0)}
"""Level and width, HU, of the others. soft, the usual one of soft tissue, tells apart what the bone window shows alike: fat
(-100), fluid (10 to 40), cholesteatoma (43), granulation (86). wide holds all from air to the otic capsule (1750 to 2190)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What the network sees of an ear, and how far training strays from it. What is drawn is the same for all its slices."""

    wl: float = 500.0
    """Window level, HU."""

    ww: float = 3000.0
    """Window width, HU."""

    windows: tuple[str, ...] = (BONE,)
    """Windows of the same voxels, each a channel: bone (--wl, --ww), soft, wide."""

    slice_context: int = 0
    """So many neighbours on either side of each slice are its channels too (slice_attention)."""

    model_slices: int | None = None
    """Where given, the network sees only so many neighbouring slices at once: in training a block drawn at random, afterwards
    the blocks that hold all slices, whose logits are averaged."""

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
    """Standard deviation of added noise, up to this, in units of half the bone window (the same HU in every window)."""

    blur: float = 0.5
    """Up to this share of the image is replaced by its 3 × 3 binomial blur."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "ww")
        _at_least(self, 0, "slice_context", "jitter_level", "jitter_width", "rotate_deg", "shift", "scale", "noise", "blur")
        if self.model_slices is not None:
            _at_least(self, 1, "model_slices")
        known = (BONE, *WINDOWS)
        if not self.windows or len({*self.windows}) < len(self.windows) or not {*self.windows} <= {*known}:
            raise ValueError(f"windows: got {','.join(self.windows)!r}, expected some of {', '.join(known)}, each once")
        for name in ("jitter_width", "scale", "blur"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")

    @property
    def channels(self) -> int:
        """C = windows × (2 neighbours + 1)."""
        return len(self.windows) * (2 * self.slice_context + 1)

    @property
    def hu_windows(self) -> list[tuple[float, float]]:
        """Level and width of each window, HU."""
        return [WINDOWS.get(name, (self.wl, self.ww)) for name in self.windows]


LONG_TAIL = ("class_balanced", "logit_adjusted")
"""Losses that correct for unequal classes."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is fitted."""

    epochs: int = 30
    """At most this many."""

    batch_size: int = 16
    """Samples a step: ears, on the dual route exams. Several processes share them."""

    auto_batch: bool = False
    """Find by trying the largest batch that fits (and leaves a few steps an epoch), in place of --batch-size."""

    lr: float = 1e-3
    """Highest learning rate of AdamW, reached after the warm-up; a cosine takes it to zero."""

    weight_decay: float = 0.02
    """Of AdamW; biases and normalisation are spared."""

    warmup_epochs: float = 1.0
    """Linear warm-up."""

    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 for any."""

    grad_accum: int = 1
    """Compute each step in so many parts, one after the other: less memory, the same step (but for BatchNorm and
    --drop-high-loss, which see the parts). Where memory runs out all the same, parts are halved by themselves."""

    ema: float = 0.0
    """Keep a running mean of the weights, of which each step replaces 1 - this (0.999, say); it is what is measured and kept
    as best.pt. 0 for none."""

    freeze_backbone_epochs: int = 0
    """So long only pooling and head learn, on the network as it came; then all of it. For few ears and pretrained weights."""

    save_minutes: float = 10.0
    """A checkpoint is written after each epoch, and within one when so long has passed since the last: no more is ever lost."""

    keep_last: int = 2
    """So many of the last checkpoints are kept: last.pt, last-1.pt, … A damaged one is passed over on --resume."""

    label_smoothing: float = 0.05
    """Targets are pulled this far from 0 and 1."""

    balance: Literal["auto", "sampler", "loss", "none"] = "auto"
    """Against unequal classes: draw them equally often, or weigh the loss (by 1 / frequency), never both; auto is sampler, none
    where --loss corrects for the classes itself, and loss for several tasks at once, which no drawing can balance."""

    loss: Literal["ce", "focal", "class_balanced", "logit_adjusted"] = "ce"
    """ce is (binary) cross entropy. focal looks at the ears that are hard. For a long tail: class_balanced weighs classes by
    their effective number, logit_adjusted shifts logits by the classes' frequency."""

    focal_gamma: float = 2.0
    """Of --loss focal: how little easy ears count; 0 is cross entropy."""

    balanced_beta: float = 0.999
    """Of --loss class_balanced: 0 weighs classes alike; near 1 by 1 / frequency."""

    adjust_tau: float = 1.0
    """Of --loss logit_adjusted: the factor of log frequency."""

    drop_high_loss: float = 0.0
    """Against wrong labels: the share of a batch's ears, those whose label fits least, that is left out of the loss (whole
    ears: of 8 ears, 0.1 leaves out none)."""

    drop_warmup_epochs: int = 3
    """So long nothing is dropped, then over as many epochs linearly up to the share."""

    early_stop_metric: Literal["auprc", "auroc", "macro_f1", "macro_recall", "accuracy", "loss", "val_loss"] = "auprc"
    """Chooses best.pt and stops; measured on the tune set (val_loss is the loss there)."""

    patience: int = 8
    """Epochs without a better one before training stops; 0 for never."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto takes bf16 where the device computes in it. (3D networks stay in fp32
    on a CPU.)"""

    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, the same step, a third more work."""

    compile: bool = False
    """Let torch compile the network (needs a C compiler): minutes at the start, faster steps on a GPU."""

    tf32: bool = True
    """A GPU may round what is computed in fp32 to TF32 in its products."""

    deterministic: bool = False
    """The same bits each time on the same machine, at some cost in speed on a GPU. (A CPU gives them anyway.)"""

    seed: int = 42
    """Of every random choice."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "batch_size", "grad_accum", "keep_last")
        _at_least(self, 0, "lr", "weight_decay", "warmup_epochs", "clip_norm", "patience", "seed", "save_minutes")
        _at_least(self, 0, "freeze_backbone_epochs", "focal_gamma", "adjust_tau", "drop_warmup_epochs")
        for name, end in (("label_smoothing", 0.5), ("drop_high_loss", 0.5), ("balanced_beta", 1), ("ema", 1)):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to {end}")
        at_once = self.batch_size / self.grad_accum
        if self.drop_high_loss and self.drop_high_loss * at_once < 1:
            raise ValueError(f"drop-high-loss: {self.drop_high_loss} of {at_once:g} samples at once is less than one: none "
                             "would be left out; take a larger share, a larger --batch-size or a smaller --grad-accum")
        if self.loss in LONG_TAIL and self.balance in ("sampler", "loss"):
            raise ValueError(f"loss: {self.loss} and --balance {self.balance} both correct for unequal classes, which would be "
                             "twice; take --balance none (or auto), or --loss ce")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run. `config.json` and every checkpoint hold it whole."""

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
                             "neighbouring slices as they are; leave it at 0, or take a slice_attention network")

        if self.several_tasks and self.training.balance == "sampler":
            raise ValueError("balance: sampler cannot balance several tasks at once; take --balance loss or none")

    @property
    def several_tasks(self) -> bool:
        return "," in self.data.label_task.replace("，", ",")

    @property
    def balancing(self) -> Literal["sampler", "loss", "none"]:
        """What `training.balance` stands for."""
        if self.training.balance != "auto":
            return self.training.balance
        if self.training.loss in LONG_TAIL:
            return "none"
        return "loss" if self.several_tasks else "sampler"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(K, C, H, W) of an ear as the network takes it, K being --model-slices where given."""
        cached, height, width = self.ears.shape
        return self.augment.model_slices or cached, self.augment.channels, height, width

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

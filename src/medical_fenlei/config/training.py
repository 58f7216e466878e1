"""How the network is fitted."""
from dataclasses import dataclass
from typing import Literal

from medical_fenlei.config.checks import require_at_least
from medical_fenlei.settings import check_seed

EPOCHS = 30
"""Maximum number of epochs where --epochs is not given."""
LONG_TAIL = ("class_balanced", "logit_adjusted")
"""Losses that correct for unequal classes themselves."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is fitted."""

    epochs: int | None = None
    """Maximum number of epochs, each of one pass through the training set (default: 30, of as many passes as give
    --min-steps)."""

    min_steps: int = 300
    """Without --epochs: least number of steps. Training does not stop before, and best.pt is none of the first half. If the
    training set is too small for it, an epoch passes through it several times, so that --patience and --warmup-epochs stand for
    no fewer steps; 0 for one pass."""

    batch_size: int = 16
    """Samples per step, over all processes: ears; on the dual route, exams."""

    auto_batch: bool = False
    """Find the largest batch that fits (and leaves a few steps per epoch) by trial, instead of --batch-size."""

    lr: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up; a cosine schedule lowers it to zero."""

    weight_decay: float = 0.02
    """Weight decay of AdamW; not applied to biases and normalisation layers."""

    warmup_epochs: float = 1.0
    """Epochs of linear warm-up."""

    clip_norm: float = 1.0
    """Maximum norm of the gradient; 0 for no clipping."""

    grad_accum: int = 1
    """Compute each step in this many parts, one after the other: less memory, the same step (except for BatchNorm and
    --drop-high-loss, which see the parts). If memory still runs out, parts are halved automatically."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights (such as 0.999), which is then evaluated and kept as best.pt; 0 for
    none."""

    trainable: Literal["auto", "all", "head"] = "auto"
    """head: only what follows the backbone (pooling and head) is trained; each ear goes through the backbone a few times in
    all, so that an epoch takes seconds. all: everything. auto: head for --backbone anatomy, else all."""

    freeze_backbone_epochs: int = 0
    """Epochs in which only pooling and head are trained, then everything is. For few ears and pretrained weights."""

    save_minutes: float = 10.0
    """Write a checkpoint after each epoch, and within one whenever the last is this many minutes old: a kill loses no more work
    than that."""

    keep_last: int = 2
    """Number of last checkpoints kept: last.pt, last-1.pt, … A damaged one is skipped on --resume."""

    label_smoothing: float = 0.05
    """Label smoothing: how far targets are moved from 0 and 1."""

    balance: Literal["auto", "sampler", "loss", "none"] = "auto"
    """Against class imbalance: sample the classes equally often (sampler), or weight the loss by 1 / frequency (loss). auto is
    sampler, but none if --loss corrects for the imbalance itself, and loss for several tasks, which no sampler can balance at
    once."""

    loss: Literal["ce", "focal", "class_balanced", "logit_adjusted"] = "ce"
    """ce: (binary) cross entropy; focal: weights hard ears more. For a long tail: class_balanced weights classes by their
    effective number, logit_adjusted shifts logits by the frequency of the classes."""

    focal_gamma: float = 2.0
    """Focusing parameter of --loss focal; 0 is cross entropy."""

    balanced_beta: float = 0.999
    """Beta of --loss class_balanced: 0 weights all classes alike, near 1 by 1 / frequency."""

    adjust_tau: float = 1.0
    """Tau of --loss logit_adjusted: the factor of log frequency."""

    drop_high_loss: float = 0.0
    """Against wrong labels: share of the ears of a batch, those with the highest loss, that is left out of the loss (whole
    ears: of 8 ears, 0.1 leaves out none)."""

    drop_warmup_epochs: int = 3
    """Epochs in which nothing is dropped; over as many more, the share grows linearly."""

    early_stop_metric: Literal["auprc", "auroc", "macro_f1", "macro_recall", "accuracy", "loss", "val_loss"] = "auprc"
    """Metric on the tune set that selects best.pt and stops training (val_loss is the same as loss)."""

    patience: int = 8
    """Epochs without improvement before training stops (not before --min-steps); 0 for never."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Floating-point precision of the network; auto takes bf16 where the device supports it. (3D networks stay in fp32 on a
    CPU.)"""

    grad_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, the same step, a third more work."""

    compile: bool = False
    """Compile the network with torch.compile (needs a C compiler): minutes at the start, faster steps on a GPU."""

    tf32: bool = True
    """Allow TF32 in the fp32 matrix products of a GPU."""

    deterministic: bool = False
    """Bit-identical results on the same machine, at some cost in speed on a GPU. (A CPU gives them anyway.)"""

    seed: int = 42
    """Seed of every random choice."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, *(["epochs"] if self.epochs is not None else []), "batch_size", "grad_accum", "keep_last")
        require_at_least(self, 0, "min_steps", "lr", "weight_decay", "warmup_epochs", "clip_norm", "patience", "save_minutes")
        check_seed(self.seed)
        require_at_least(self, 0, "freeze_backbone_epochs", "focal_gamma", "adjust_tau", "drop_warmup_epochs")
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

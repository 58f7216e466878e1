"""How the network is fitted."""
from dataclasses import dataclass
from typing import Literal

from medical_fenlei.config.checks import at_least

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
        at_least(self, 1, "epochs", "batch_size", "grad_accum", "keep_last")
        at_least(self, 0, "lr", "weight_decay", "warmup_epochs", "clip_norm", "patience", "seed", "save_minutes")
        at_least(self, 0, "freeze_backbone_epochs", "focal_gamma", "adjust_tau", "drop_warmup_epochs")
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

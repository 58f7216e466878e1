"""Teach the anatomy network from drawn ears, and measure it on drawn ears that it never saw."""
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from medical_fenlei import settings
from medical_fenlei.anatomy.drawn_ears import SPACING, DrawnEar, draw_ear
from medical_fenlei.anatomy.spec import PretrainSpec
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.files import atomic
from medical_fenlei.log import LOG
from medical_fenlei.models.anatomy_net import AnatomyNet, AnatomyOutput
from medical_fenlei.signals import StopRequest
from medical_fenlei.training.batch_progress import BatchProgress
from medical_fenlei.training.schedule import warmup_cosine
from medical_fenlei.vocabulary import EarPoint, Structure

HELD_OUT_SEED = 1 << 32
"""Seed of the ears on which the network is measured; no seed of training is as large."""
SAVE_SECONDS = 120.0
"""How old what a repeated call goes on from may become."""


LANDMARK_WEIGHT = 0.05
"""What a landmark that is a mm off costs, in units of the loss of the segmentation."""


class _DrawnEars(Dataset[tuple[np.ndarray, np.ndarray, np.ndarray]]):
    """The drawn ears of a seed, by number."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ear = draw_ear(self.seed, number)
        return ear.hu.astype(np.float32), ear.structures.astype(np.int64), ear.landmarks


def pretrain(spec: PretrainSpec, out: Path, *, workers: int) -> AnatomyNet:
    """Train the network and write its weights to `out` (.safetensors, float16).

    workers: processes that draw ears. Beside `out` stands what a repeated call goes on from, until the weights are written.
    Raises UserError if that was begun with other settings; Stopped, after saving, on a signal.
    """
    torch.manual_seed(spec.seed)
    training = _Training(spec, out.with_suffix(".resume.pt"))
    training.resume()
    with StopRequest().on_signals() as stop, BatchProgress("anatomy", spec.steps, done=training.done) as progress:
        for hu, structures, landmarks in _batches(spec, training.done, workers):
            training.step(hu, structures, landmarks)
            progress.update()
            if stop.received:
                training.save()
                raise Stopped(f"saved after {training.done} of {spec.steps} steps; the same command continues")
            if time.monotonic() - training.saved > SAVE_SECONDS:
                training.save()
    write_weights(training.model, out)
    training.path.unlink(missing_ok=True)
    return training.model


class _Training:
    """A network on its way."""

    def __init__(self, spec: PretrainSpec, path: Path) -> None:
        self.spec, self.path, self.done, self.saved = spec, path, 0, time.monotonic()
        self.model, self.losses = AnatomyNet(), list[float]()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=spec.lr, weight_decay=1e-4)

    def step(self, hu: torch.Tensor, structures: torch.Tensor, landmarks: torch.Tensor) -> None:
        """Take a step on a batch: HU float32, structures int64, both (N, K, H, W); landmarks float32 (N, 3, 3)."""
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_cosine(self.done, steps=self.spec.steps, warmup=self.spec.steps / 20, peak=self.spec.lr)
        loss = anatomy_loss(self.model(hu), structures, landmarks)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())
        self.done += 1

    def save(self) -> None:
        """Write everything that the next step depends on."""
        with atomic(self.path) as file:
            torch.save({"spec": settings.to_json(self.spec), "done": self.done, "model": self.model.state_dict(),
                        "optimizer": self.optimizer.state_dict()}, file)
        LOG.info("anatomy: step %d of %d, mean loss since the last line %.3f", self.done, self.spec.steps, np.mean(self.losses))
        self.saved, self.losses = time.monotonic(), []

    def resume(self) -> None:
        """Take up where an interrupted call stopped, if one did.

        Raises UserError if it had other settings, or its file is damaged.
        """
        if not self.path.is_file():
            return
        try:
            kept: dict[str, Any] = torch.load(self.path, weights_only=True)
            spec = kept["spec"]
            if same := spec == settings.to_json(self.spec):
                self.model.load_state_dict(kept["model"])
                self.optimizer.load_state_dict(kept["optimizer"])
                self.done = kept["done"]
        except Exception as error:  # the type depends on the damage
            raise UserError(f"{self.path}: cannot be read as the beginning of a training ({type(error).__name__}); remove it"
                            ) from None
        if not same:
            raise UserError(f"{self.path}: got the beginning of a training with other settings ({spec}), expected "
                            f"{settings.to_json(self.spec)}; finish it with those, or remove the file")


def anatomy_loss(found: AnatomyOutput, structures: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Return cross entropy, one minus the mean soft Dice of the structures that a batch holds, and the error of its landmarks.

    structures int64 (N, K, H, W); landmarks float32 (N, 3, 3), voxel indices; those beyond the volume do not count.
    """
    probability = found.logits.softmax(1)
    truth = functional.one_hot(structures, len(Structure)).movedim(-1, 1).to(probability.dtype)
    space = (0, 2, 3, 4)
    there = truth.sum(space)
    dice = (2 * (probability * truth).sum(space) + 1) / (probability.sum(space) + there + 1)
    known = there > 0
    known[Structure.OTHER] = False
    segmented = functional.cross_entropy(found.logits, structures) + 1 - (dice * known).sum() / known.sum().clamp(min=1)
    inside = ((landmarks >= 0) & (landmarks <= landmarks.new_tensor(structures.shape[1:]) - 1)).all(-1)
    off = (found.landmarks - landmarks) * landmarks.new_tensor(SPACING)
    distance = functional.smooth_l1_loss(off, torch.zeros_like(off), reduction="none").sum(-1)
    return segmented + LANDMARK_WEIGHT * (distance * inside).sum() / inside.sum().clamp(min=1)


@dataclass(frozen=True)
class Measured:
    """How well the network finds the structures of some drawn ears."""

    dice: dict[Structure, float]
    """Over the voxels of all ears together; NaN for a structure that is neither there nor found."""

    off_mm: dict[EarPoint, np.ndarray]
    """Distance of each landmark that lies within its volume from where it was found."""


def held_out_ears(count: int, code: int | None = None) -> Iterator[DrawnEar]:
    """Yield drawn ears that no training saw; code: their diagnosis (None: any that is taught)."""
    return (draw_ear(HELD_OUT_SEED, number, code) for number in range(count))


@torch.no_grad()
def measure(model: AnatomyNet, ears: Iterable[DrawnEar]) -> Measured:
    """Compare what the network finds in these ears with what was drawn."""
    model.eval()
    both, sizes = np.zeros(len(Structure)), np.zeros(len(Structure))
    off: dict[EarPoint, list[float]] = {landmark: [] for landmark in EarPoint}
    for ear in ears:
        found = model(torch.from_numpy(ear.hu.astype(np.float32))[None])
        segmented = found.logits[0].argmax(0).numpy()
        for structure in Structure:
            mine, true = segmented == structure, ear.structures == structure
            both[structure] += (mine & true).sum()
            sizes[structure] += mine.sum() + true.sum()
        for landmark, mine, true in zip(EarPoint, found.landmarks[0].numpy(), ear.landmarks, strict=True):
            if (true >= 0).all() and (true <= np.array(ear.hu.shape) - 1).all():
                off[landmark].append(float(np.linalg.norm((mine - true) * SPACING)))
    model.train()
    dice = {structure: float(2 * both[structure] / sizes[structure]) if sizes[structure] else math.nan
            for structure in Structure if structure}
    return Measured(dice, {landmark: np.array(distances) for landmark, distances in off.items()})


def write_weights(model: AnatomyNet, out: Path) -> None:
    """Write the weights as float16."""
    with atomic(out) as file:
        file.write(save({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}))


def _batches(spec: PretrainSpec, done: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield the batches of the remaining steps."""
    ears = _DrawnEars(spec.seed, spec.steps * spec.batch_size)
    numbers = range(done * spec.batch_size, len(ears))
    batches = [list(numbers[at:at + spec.batch_size]) for at in range(0, len(numbers), spec.batch_size)]
    yield from DataLoader(ears, batch_sampler=batches, num_workers=workers,
                          multiprocessing_context="spawn" if workers else None, prefetch_factor=4 if workers else None)

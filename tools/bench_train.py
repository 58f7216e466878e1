"""Is the training loop as fast as the network alone, and how much faster than what one would write otherwise?

    python tools/bench_train.py                    # some 10 minutes on two cores without a GPU
    python tools/bench_train.py --quick            # small ears, under a minute
    python tools/bench_train.py --nets convnext_tiny --batch-size 32 --repeats 9

Our loop is the real one with its default augmentation, on ears of noise in a real store. Ratios are of ears a second, medians
over epochs of the same ears that were measured in turn in this run:
  loop_vs_ceiling.NET.HOME  our loop over its ceiling: the same network, optimizer, precision and batch size, on one batch that
                            lies windowed on the device (1 is as fast as can be); HOME is where our ears live
  loop_vs_ceiling           of the first net, its ears on the device
  ears_per_s.HOME           of the first net
  speedup_vs_monai          our loop as it is by default over MONAI's way: CacheDataset, its transforms, DataLoader
  speedup_vs_plain          our loop over torch and torchvision alone: a Dataset that loads and transforms, DataLoader
  ..._same_precision        the same with our loop in float32, as its peers are
  peak_gb                   on a GPU: the most memory that an epoch takes, ears read from disk
  largest_batch             on a GPU: the ears a step that --auto-batch finds; largest_batch_gb what they take
The peers (peer_loops.py) train the first net in NCHW, with our optimizer, on our files, each with the number of workers that it
is fastest with; TF32 and cuDNN's search are theirs as well as ours.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peer_loops
import torch
from measuring import figure, seconds
from torch import nn

from medical_fenlei import cli, parallel, settings
from medical_fenlei.config import EAR_ROUTE, RunConfig
from medical_fenlei.data.augment import window
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.files import write_json
from medical_fenlei.models.build import build_model
from medical_fenlei.models.output import Network
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task
from medical_fenlei.training.batch_size import LARGEST, STEPS_AN_EPOCH, largest_batch
from medical_fenlei.training.device import Arithmetic, memory_gb, seed_everything
from medical_fenlei.training.loop import Progress, Trainer
from medical_fenlei.training.record import Record
from medical_fenlei.vocabulary import Side

NETS = "resnet18,convnext_tiny,dual_resnet18_3d"
HOMES = ("device", "memory", "disk")
TASK = find_task(EAR_ROUTE.data.label_task)
NORMAL, ABNORMAL = 5, 1
Epoch = Callable[[], object]
"""Trains on each ear once."""
Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Size:
    slices: int
    image_size: int
    batch_size: int
    """Ears a step."""

    ears: int
    """An epoch of the first net, a multiple of the batch size; half of them of the others, which are slower."""

    repeats: int
    """Epochs that are measured; half as many of the peers, and of ours beside them."""


SIZES = {"quick": Size(2, 64, 4, 8, 3), "cpu": Size(32, 224, 2, 4, 5), "cuda": Size(32, 224, 16, 1024, 7)}


@dataclass(frozen=True)
class Bench:
    """Ears of noise, and what trains on them."""

    folder: Path
    config: RunConfig
    ears: pd.DataFrame
    device: torch.device

    @classmethod
    def drawn(cls, folder: Path, config: RunConfig, count: int) -> "Bench":
        """Half of the ears are normal: the balancing sampler then shows each of them once an epoch."""
        exams, rng = [f"exam_{n}" for n in range(count)], np.random.default_rng(0)
        store = EarStore(folder, config.ears)
        for exam in exams:
            store.write(exam, Side.LEFT, rng.integers(-1000, 2000, config.ears.shape, np.int16), {})
        ears = pd.DataFrame({"exam_id": exams, "side": str(Side.LEFT), "label_code": np.resize([NORMAL, ABNORMAL], count)})
        return cls(folder, config, ears, Arithmetic.choose(config.training.device, config.training.precision).device)

    def network(self, net: str) -> tuple[RunConfig, Network]:
        """A 3D one by our name, or the encoder of a slice by timm's."""
        config = settings.changed(self.config, **{"model" if net.startswith("dual_") else "backbone": net})
        return config, build_model(config.model, shape=config.input_shape, outputs=TASK.outputs).to(self.device)

    def trainer(self, config: RunConfig, model: Network, ears: pd.DataFrame, **others: Any) -> Trainer:
        """Ours, with other settings in place of those of the config where named."""
        config, store = settings.changed(config, **others), EarStore(self.folder, config.ears)
        placement = Placement.choose(config.data, store, self.device, ears=len(ears))
        return Trainer(config, Run(self.folder / "run"), model, Arithmetic.choose(self.device.type, config.training.precision),
                       EarDataset(store, ears, placement=placement), None)

    def ears_per_s(self, epoch: Epoch) -> float:
        def finished() -> None:
            epoch()
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return len(self.ears) / seconds(finished)

    def in_turn(self, epochs: dict[str, Epoch], repeats: int) -> dict[str, np.ndarray]:
        """Ears a second, float64 (repeats,): of one after the other, each time another one first; once before, to be warm."""
        found: dict[str, list[float]] = {name: [] for name in epochs}
        for n in range(repeats + 1):
            for name in np.roll([*epochs], -n).tolist():
                found[name].append(self.ears_per_s(epochs[name]))
        return {name: np.array(speeds[1:]) for name, speeds in found.items()}


def ours(trainer: Trainer) -> None:
    """An epoch of the loop. Not `fit`, which also measures a tune set and writes records and checkpoints."""
    trainer.progress = Progress()
    trainer.train_epoch(1, Record(trainer.run, trainer.config, trainer.arithmetic, active=False))


def ceiling(trainer: Trainer) -> Epoch:
    """The trainer's own network, loss and optimizer, on one batch that lies ready: no data, no augmentation, no checks."""
    plan, optimizer, parameters = trainer.config.training, trainer.step.optimizer, list(trainer.model.parameters())
    batch = trainer.train.batch(np.arange(plan.batch_size))
    image = window(batch.ears.to(trainer.device), trainer.config.augment)
    target = trainer.loss.targets(batch.code[:, 0].to(trainer.device))

    def epoch() -> None:
        trainer.model.train()
        for _ in range(len(trainer.train) // plan.batch_size):
            optimizer.zero_grad(set_to_none=True)
            with trainer.arithmetic.autocast():
                output = trainer.network(image)
            trainer.loss(output.logits, target).backward()
            nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
            optimizer.step()

    return epoch


def peer(bench: Bench, trainer: Trainer, loader: peer_loops.Loader, name: str) -> Epoch:
    """An epoch of a peer, with as many workers as it is fastest with. trainer: whose network and optimizer it takes."""
    plan, cores, model = trainer.config.training, parallel.default_workers(), peer_loops.Usual(trainer.model)
    epochs: dict[int, Epoch] = {}
    for workers in (0, 1, cores) if cores <= 4 else (cores // 2, cores):
        batches = loader(batch_size=plan.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
                         pin_memory=bench.device.type == "cuda")
        epochs[workers] = partial(peer_loops.train, model, batches, trainer.step.optimizer, clip_norm=plan.clip_norm)
    next(iter(epochs.values()))()                                # what happens only once, before the clock runs
    best = max(epochs, key=lambda workers: bench.ears_per_s(epochs[workers]))
    cli.say(f"{name}: fastest with {best} workers (of {', '.join(map(str, epochs))})")
    return epochs[best]


def against_ceiling(bench: Bench, net: str, repeats: int, *, first: bool) -> Figures:
    config, model = bench.network(net)
    trainers = {home: bench.trainer(config, model, bench.ears, data_on=home) for home in HOMES}
    epochs: dict[str, Epoch] = {home: partial(ours, trainer) for home, trainer in trainers.items()}
    speeds = bench.in_turn({**epochs, "ceiling": ceiling(trainers["device"])}, repeats)
    ratios = {home: speeds[home] / speeds["ceiling"] for home in HOMES}
    found = [figure(f"loop_vs_ceiling.{net}.{home}", ratios[home].tolist(), "ratio", "higher") for home in HOMES]
    if first:
        found.append(figure("loop_vs_ceiling", ratios["device"].tolist(), "ratio", "higher"))
        found += [figure(f"ears_per_s.{home}", speeds[home].tolist(), "ears/s", "higher") for home in HOMES]
    return found


def against_peers(bench: Bench, net: str, repeats: int) -> Figures:
    """Ours have their ears on the device."""
    config, model = bench.network(net)
    trainers = {precision: bench.trainer(config, model, bench.ears, data_on="device", precision=precision)
                for precision in (config.training.precision, "fp32")}
    usual = bench.trainer(*bench.network(net), bench.ears, data_on="disk", precision="fp32")
    files = [str(bench.folder / config.ears.key / f"{exam}_left.npy") for exam in bench.ears.exam_id]
    samples = [{"image": path, "label": float(target)}
               for path, target in zip(files, TASK.targets(bench.ears.label_code.to_numpy()), strict=True)]
    peers = {name: peer(bench, usual, loader(samples, config.augment), name)
             for name, loader in {"monai": peer_loops.monai, "plain": peer_loops.plain}.items()}
    speeds = bench.in_turn({"": partial(ours, trainers[config.training.precision]),
                            "_same_precision": partial(ours, trainers["fp32"]), **peers}, repeats)
    return [figure(f"speedup_vs_{name}{which}", (speeds[which] / speeds[name]).tolist(), "ratio", "higher")
            for name in peers for which in ("", "_same_precision")]


def memory(bench: Bench, net: str) -> Figures:
    """Of a GPU, whatever else lies on it left aside: ears come from disk."""
    config, model = bench.network(net)

    def peak(batch_size: int) -> float:
        ears = bench.ears.iloc[np.resize(np.arange(len(bench.ears)), 2 * batch_size)]
        trainer = bench.trainer(config, model, ears, data_on="disk", batch_size=batch_size)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        ours(trainer)
        return memory_gb(bench.device)

    arithmetic = Arithmetic.choose(bench.device.type, config.training.precision)
    found = [figure("peak_gb", [peak(config.training.batch_size)], "GB", "lower")]
    largest = largest_batch(model, (1, *config.input_shape), arithmetic, samples=STEPS_AN_EPOCH * LARGEST)
    return [*found, figure("largest_batch", [largest], "ears", "higher"),
            figure("largest_batch_gb", [peak(largest)], "GB", "lower")]


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small ears and few repeats, under a minute")
    parser.add_argument("--nets", default=NETS, help=f"timm's names, or dual_..._3d; the first has peers (default: {NETS})")
    for setting in fields(Size):
        sizes = ", ".join(f"{getattr(size, setting.name)} {name}" for name, size in SIZES.items())
        parser.add_argument("--" + setting.name.replace("_", "-"), type=cli.at_least(1), default=argparse.SUPPRESS,
                            help=f"(default: {sizes})")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of ours (default: auto)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    cli.add(parser, "device")
    args = parser.parse_args()
    arithmetic = Arithmetic.choose(args.device, args.precision)
    size = SIZES["quick" if args.quick else arithmetic.device.type]
    size = replace(size, **{name: value for name, value in vars(args).items() if hasattr(size, name)})
    config = settings.changed(
        EAR_ROUTE, num_slices=size.slices, image_size=size.image_size, batch_size=size.batch_size, device=args.device,
        precision=args.precision, save_minutes=math.inf)         # nothing is written while the clock runs
    count = size.batch_size * max(1, size.ears // size.batch_size)
    seed_everything(config.training.seed, arithmetic.device)
    cli.say(f"{count} ears of {size.slices} x {size.image_size} x {size.image_size}, {size.batch_size} a step, on {arithmetic}")
    found, (first, *others) = [], args.nets.split(",")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.drawn(Path(folder), config, count)
        if bench.device.type == "cuda":
            found += memory(bench, first)
        found += against_ceiling(bench, first, size.repeats, first=True)
        half = replace(bench, ears=bench.ears[:size.batch_size * max(1, count // size.batch_size // 2)])
        for net in others:
            found += against_ceiling(half, net, size.repeats, first=False)
        found += against_peers(bench, first, -(-size.repeats // 2))
    if bench.device.type != "cuda":
        cli.say("peak_gb, largest_batch and largest_batch_gb are missing: they need a GPU")
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Speed of the training loop, against the network alone and against loops written with MONAI and with torch only.

    python tools/bench_train.py                    # some 10 minutes on two cores without a GPU
    python tools/bench_train.py --quick            # small ears, under a minute
    python tools/bench_train.py --nets convnext_tiny --batch-size 32 --repeats 9

Our loop runs with its default augmentation on ears of noise in a cache. Ratios are of ears per second, medians over epochs of
the same ears, measured in turn:
  loop_vs_ceiling.NET.STORAGE  our loop over its upper bound: the same network, optimizer, precision and batch size on one
                               windowed batch on the device (1 is optimal); STORAGE is where our ears are stored
  loop_vs_ceiling              the same for the first net, ears stored on the device
  ears_per_s.STORAGE           ears per second of the first net
  speedup_vs_monai             our default loop over MONAI's: CacheDataset, its transforms, DataLoader
  speedup_vs_plain             our default loop over torch and torchvision: a Dataset that loads and transforms, DataLoader
  ..._same_precision           the same with our loop in float32, like its peers
  peak_gb                      on a GPU: peak memory of an epoch, ears read from disk
  largest_batch                on a GPU: batch size that --auto-batch finds; largest_batch_gb its peak memory
The peers (peer_loops.py) train the first net in NCHW with our optimizer on our files, each with its fastest number of workers;
TF32 and the cuDNN benchmark are enabled for all.
Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import argparse
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
from medical_fenlei.models.network import Network
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task
from medical_fenlei.training.batch_size import MAX_BATCH_SIZE, MIN_STEPS_PER_EPOCH, largest_batch
from medical_fenlei.training.device import ComputeSettings, peak_memory_gb, seed_everything
from medical_fenlei.training.logger import TrainingLogger
from medical_fenlei.training.loop import Progress, Trainer
from medical_fenlei.vocabulary import Side

NETS = "resnet18,convnext_tiny,dual_resnet18_3d"
STORAGES = ("device", "memory", "disk")
TASK = find_task(EAR_ROUTE.data.label_task)
NORMAL, ABNORMAL = 5, 1
Epoch = Callable[[], object]
"""Trains on each ear once."""
Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """The size of a benchmark."""

    slices: int
    image_size: int
    batch_size: int
    """Ears per step."""

    ears: int
    """Ears per epoch of the first net, a multiple of the batch size; half as many for the other nets, which are slower."""

    repeats: int
    """Measured epochs; half as many for the comparison with the peers."""


SIZES = {"quick": Size(2, 64, 4, 8, 3), "cpu": Size(32, 224, 2, 4, 5), "cuda": Size(32, 224, 16, 1024, 7)}


@dataclass(frozen=True)
class Bench:
    """Ears of noise, and the trainers on them."""

    folder: Path
    config: RunConfig
    ears: pd.DataFrame
    device: torch.device

    @classmethod
    def with_noise(cls, folder: Path, config: RunConfig, count: int) -> "Bench":
        """Store `count` ears of noise, half of them normal, so that the balancing sampler shows each once per epoch."""
        exams, rng = [f"exam_{n}" for n in range(count)], np.random.default_rng(0)
        store = EarStore(folder, config.ears)
        for exam in exams:
            store.write(exam, Side.LEFT, rng.integers(-1000, 2000, config.ears.shape, np.int16), {})
        ears = pd.DataFrame({"exam_id": exams, "side": str(Side.LEFT), "label_code": np.resize([NORMAL, ABNORMAL], count)})
        return cls(folder, config, ears, ComputeSettings.choose(config.training.device, config.training.precision).device)

    def network(self, net: str) -> tuple[RunConfig, Network]:
        """Build a 3D network by its name here, or a slice encoder by its name in timm."""
        config = settings.changed(self.config, **{"model" if net.startswith("dual_") else "backbone": net})
        return config, build_model(config.model, shape=config.input_shape, outputs=TASK.outputs).to(self.device)

    def trainer(self, config: RunConfig, model: Network, ears: pd.DataFrame, **changes: Any) -> Trainer:
        """Return our trainer, with changed settings."""
        config, store = settings.changed(config, **changes), EarStore(self.folder, config.ears)
        placement = Placement.choose(config.data, store, self.device, ears=len(ears))
        compute = ComputeSettings.choose(self.device.type, config.training.precision)
        return Trainer(config, Run(self.folder / "run"), model, compute, EarDataset(store, ears, placement=placement), None)

    def ears_per_s(self, epoch: Epoch) -> float:
        """Return the speed of one epoch in ears per second."""
        def finished() -> None:
            epoch()
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return len(self.ears) / seconds(finished)

    def in_turn(self, epochs: dict[str, Epoch], repeats: int) -> dict[str, np.ndarray]:
        """Return the ears per second of each, float64 (repeats,), measured in turn after one epoch to warm up."""
        found: dict[str, list[float]] = {name: [] for name in epochs}
        for n in range(repeats + 1):
            for name in np.roll([*epochs], -n).tolist():
                found[name].append(self.ears_per_s(epochs[name]))
        return {name: np.array(speeds[1:]) for name, speeds in found.items()}


def ours(trainer: Trainer) -> None:
    """Run an epoch of our loop, without the tune set, records and checkpoints of `fit`."""
    trainer.progress = Progress()
    trainer.train_epoch(1, TrainingLogger(trainer.run, trainer.config, trainer.compute, trainer.schedule, active=False))


def ceiling(trainer: Trainer) -> Epoch:
    """Return an epoch of the trainer's network, loss and optimizer on one prepared batch, without data and augmentation."""
    plan, optimizer, parameters = trainer.config.training, trainer.step.optimizer, list(trainer.model.parameters())
    batch = trainer.train.batch(np.arange(plan.batch_size))
    image = window(batch.ears.to(trainer.device), trainer.config.augment)
    target = trainer.loss.targets(batch.code[:, 0].to(trainer.device))

    def epoch() -> None:
        trainer.model.train()
        for _ in range(len(trainer.train) // plan.batch_size):
            optimizer.zero_grad(set_to_none=True)
            with trainer.compute.autocast():
                output = trainer.network(image)
            trainer.loss(output.logits, target).backward()
            nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
            optimizer.step()

    return epoch


def peer(bench: Bench, trainer: Trainer, loader: peer_loops.Loader, name: str) -> Epoch:
    """Return an epoch of a peer with its fastest number of workers, on the network and optimizer of `trainer`."""
    plan, cores, model = trainer.config.training, parallel.default_workers(), peer_loops.Usual(trainer.model)
    epochs: dict[int, Epoch] = {}
    for workers in (0, 1, cores) if cores <= 4 else (cores // 2, cores):
        batches = loader(batch_size=plan.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
                         pin_memory=bench.device.type == "cuda")
        epochs[workers] = partial(peer_loops.train, model, batches, trainer.step.optimizer, clip_norm=plan.clip_norm)
    next(iter(epochs.values()))()                                # one-time work, before the measurement
    best = max(epochs, key=lambda workers: bench.ears_per_s(epochs[workers]))
    cli.say(f"{name}: fastest with {best} workers (of {', '.join(map(str, epochs))})")
    return epochs[best]


def against_ceiling(bench: Bench, net: str, repeats: int, *, first: bool) -> Figures:
    """Measure our loop against its upper bound, for each storage of the ears."""
    config, model = bench.network(net)
    trainers = {storage: bench.trainer(config, model, bench.ears, data_on=storage) for storage in STORAGES}
    epochs: dict[str, Epoch] = {storage: partial(ours, trainer) for storage, trainer in trainers.items()}
    speeds = bench.in_turn({**epochs, "ceiling": ceiling(trainers["device"])}, repeats)
    ratios = {storage: speeds[storage] / speeds["ceiling"] for storage in STORAGES}
    found = [figure(f"loop_vs_ceiling.{net}.{storage}", ratios[storage].tolist(), "ratio", "higher") for storage in STORAGES]
    if first:
        found.append(figure("loop_vs_ceiling", ratios["device"].tolist(), "ratio", "higher"))
        found += [figure(f"ears_per_s.{storage}", speeds[storage].tolist(), "ears/s", "higher") for storage in STORAGES]
    return found


def against_peers(bench: Bench, net: str, repeats: int) -> Figures:
    """Measure our loop, with ears on the device, against the peers."""
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
    """Measure the memory of a GPU, with ears read from disk."""
    config, model = bench.network(net)

    def peak(batch_size: int) -> float:
        ears = bench.ears.iloc[np.resize(np.arange(len(bench.ears)), 2 * batch_size)]
        trainer = bench.trainer(config, model, ears, data_on="disk", batch_size=batch_size)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        ours(trainer)
        return peak_memory_gb(bench.device)

    compute = ComputeSettings.choose(bench.device.type, config.training.precision)
    found = [figure("peak_gb", [peak(config.training.batch_size)], "GB", "lower")]
    largest = largest_batch(model, (1, *config.input_shape), compute, samples=MIN_STEPS_PER_EPOCH * MAX_BATCH_SIZE)
    return [*found, figure("largest_batch", [largest], "ears", "higher"),
            figure("largest_batch_gb", [peak(largest)], "GB", "lower")]


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small ears and few repeats, under a minute")
    parser.add_argument("--nets", default=NETS, help=f"names of timm, or dual_..._3d; peers train the first (default: {NETS})")
    for setting in fields(Size):
        sizes = ", ".join(f"{getattr(size, setting.name)} {name}" for name, size in SIZES.items())
        parser.add_argument("--" + setting.name.replace("_", "-"), type=cli.int_at_least(1), default=argparse.SUPPRESS,
                            help=f"(default: {sizes})")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our loop (default: auto)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "device")
    args = parser.parse_args()
    compute = ComputeSettings.choose(args.device, args.precision)
    size = SIZES["quick" if args.quick else compute.device.type]
    size = replace(size, **{name: value for name, value in vars(args).items() if hasattr(size, name)})
    config = settings.changed(
        EAR_ROUTE, num_slices=size.slices, image_size=size.image_size, batch_size=size.batch_size, device=args.device,
        precision=args.precision, save_minutes=1e6)              # no checkpoint during the measurement
    count = size.batch_size * max(1, size.ears // size.batch_size)
    seed_everything(config.training.seed, compute.device)
    cli.say(f"{count} ears of {size.slices} x {size.image_size} x {size.image_size}, {size.batch_size} per step, on {compute}")
    found, (first, *others) = [], args.nets.split(",")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.with_noise(Path(folder), config, count)
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

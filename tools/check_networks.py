"""Check that every network of the dual route trains, and predicts the same after it is saved and loaded.

    python tools/check_networks.py                              # all ten: a minute or two without a GPU
    python tools/check_networks.py --models dual_resnet10_3d,dual_vit_3d --num-slices 32 --image-size 224

Each network takes one training step on four ears of noise and is then written to a checkpoint and opened. Prints a table; exits
with status 1 if a probability differs by more than 1e-6.
"""
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_fenlei import cli, settings
from medical_fenlei.config import DUAL_ROUTE, EarSpec, ModelConfig, RunConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medical_fenlei.training.device import ComputeSettings

NETWORKS = tuple(name for name in settings.choices(ModelConfig, "model") if name.startswith("dual_"))
EARS = 4
TOLERANCE = 1e-6
"""Largest allowed difference of a probability."""
SMALL = EarSpec(num_slices=16, image_size=64, extent="half")


def step(model: "nn.Module", volume: "torch.Tensor", config: RunConfig) -> None:
    """Take one training step like the loop, with the codes 1, 2, 3, ..."""
    import torch

    from medical_fenlei.data.augment import window
    from medical_fenlei.tasks import find_task
    from medical_fenlei.training.loop import parameter_groups
    from medical_fenlei.training.losses import TaskLoss

    plan = config.training
    loss = TaskLoss([find_task(config.data.label_task)], weights=[None], smoothing=plan.label_smoothing).to(volume.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay), lr=plan.lr)
    model.train()
    code = torch.arange(1, len(volume) + 1, dtype=torch.int8, device=volume.device)
    loss(model(window(volume, config.augment)).logits, loss.targets(code)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
    optimizer.step()


def check(config: RunConfig, compute: "ComputeSettings") -> dict[str, Any]:
    """Train, save and load one network; return its row of the table."""
    import torch

    from medical_fenlei.data.augment import window
    from medical_fenlei.models.build import build_model
    from medical_fenlei.tasks import find_task
    from medical_fenlei.trained.network import open_network
    from medical_fenlei.training.checkpoint import Checkpoint, write_checkpoint
    from medical_fenlei.training.device import seed_everything

    seed_everything(config.training.seed, compute.device)
    outputs = find_task(config.data.label_task).outputs
    model = build_model(config.model, shape=config.input_shape, outputs=outputs).to(compute.device)
    volume = torch.randint(-1000, 2000, (EARS, *config.ears.shape), dtype=torch.int16).to(compute.device)
    began = time.monotonic()
    step(model, volume, config)
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - began

    @torch.inference_mode()
    def probabilities(network: "nn.Module") -> "torch.Tensor":
        found: torch.Tensor = network.eval()(window(volume, config.augment)).logits.double().softmax(1)
        return found

    before = probabilities(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run" / "checkpoints" / "best.pt"
        write_checkpoint(path, Checkpoint(kind=config.kind, config=config, weights=model.state_dict(), epoch=1, metric="",
                                          value=float("nan")))
        loaded = open_network(path, kind=config.kind, device=compute.device.type).model
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return {"network": config.model.model, "million parameters": millions, "s per step": seconds,
            "largest difference": float((probabilities(loaded) - before).abs().max())}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--models", type=cli.comma_separated(NETWORKS), default=NETWORKS, metavar="NAME,NAME",
                        help=f"networks to check (default: {','.join(NETWORKS)})")
    parser.add_argument("--backbone", default="resnet18", help="encoder of dual_slice_attention (default: resnet18)")
    cli.add_shared_flags(parser, "device", "seed")
    settings.add_flags(parser, EarSpec, base=SMALL, leave_out=("extent", "crop_size", "crop_mm", "sampling"))
    args = parser.parse_args(argv)
    ears = settings.from_flags(EarSpec, args, base=SMALL)
    same = {**vars(ears), "backbone": args.backbone, "seed": args.seed, "precision": "fp32"}
    configs = [settings.changed(DUAL_ROUTE, model=name, **same) for name in args.models]

    import pandas as pd

    from medical_fenlei.training.device import ComputeSettings

    compute = ComputeSettings.choose(args.device, "fp32")
    cli.say(f"{EARS} ears of {ears.num_slices} x {ears.image_size} x {ears.image_size}, on {compute}")
    rows = []
    for config in configs:
        rows.append(check(config, compute))
        cli.say(f"{rows[-1]['network']}: done")
    table = pd.DataFrame(rows)
    shown = {"million parameters": "{:.1f}", "s per step": "{:.2f}", "largest difference": "{:.1e}"}
    cli.show(table.assign(**{name: table[name].map(form.format) for name, form in shown.items()}))
    return cli.OK if (table["largest difference"] <= TOLERANCE).all() else cli.CHECK_FAILED


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""The flags of every command on a trained network, and opening that network."""
import argparse
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.config import DataConfig

if TYPE_CHECKING:
    from medical_fenlei.trained.network import TrainedNetwork


def add_checkpoint_flags(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """Add the checkpoint, the device, the batch size, and flags that replace the data settings of the run."""
    cli.add_shared_flags(parser, "checkpoint", "device")
    parser.add_argument("--batch-size", type=cli.int_at_least(1), help="samples per batch (default: the run's)")
    if "label_task" not in leave_out:
        parser.add_argument("--label-task", metavar="NAME,NAME", default=argparse.SUPPRESS,
                            help="tasks of the network, by name or Chinese alias (default: all)")
    settings.add_flags(parser, DataConfig, default="the run's", leave_out=("label_task", "sample", *leave_out))


def open_checkpoint(args: argparse.Namespace, *, kind: str) -> tuple["TrainedNetwork", DataConfig]:
    """Open the network of --checkpoint; return it with the run's data settings, as changed by the flags. Raises UserError."""
    from medical_fenlei.trained.network import open_network

    network = open_network(args.checkpoint, kind=kind, device=args.device)
    data = settings.from_flags(DataConfig, args, base=network.config.data)
    cli.keep_input_apart(args, dicom_base=data.dicom_base)
    return network, data

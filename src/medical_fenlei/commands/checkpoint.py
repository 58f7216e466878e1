"""Flags of every command on a trained network, and the network that they name."""
import argparse
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.config import DataConfig
from medical_fenlei.errors import UserError

if TYPE_CHECKING:
    from medical_fenlei.trained.network import Trained


def add_checkpoint_flags(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """What every command on a trained network takes: the checkpoint, and what to put in place of its run's data settings."""
    cli.add(parser, "checkpoint", "device")
    parser.add_argument("--batch-size", type=int, help="samples a step (default: the run's)")
    if "label_task" not in leave_out:
        parser.add_argument("--label-task", metavar="NAME,NAME", default=argparse.SUPPRESS,
                            help="which of the network's tasks, by name or Chinese alias (default: all)")
    settings.add_flags(parser, DataConfig, default="the run's", leave_out=("label_task", "sample", *leave_out))


def open_checkpoint(args: argparse.Namespace, *, kind: str) -> tuple["Trained", DataConfig]:
    """The network, and the run's data settings with what the user named in their place. Raises UserError."""
    from medical_fenlei.trained.network import open_trained

    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size: got {args.batch_size}, expected at least 1")
    trained = open_trained(args.checkpoint, kind=kind, device=args.device)
    return trained, settings.from_flags(DataConfig, args, base=trained.config.data)

"""Train a network on both ears of each exam, which share its weights.

    python scripts/train_dual.py --pct 20 --model dual_resnet50_3d --label-task normal_vs_diseased --auto-batch

Ears that are missing or outside the task do not enter the network, the loss or any metric. Uses the cache that the
preprocessing flags name; without such flags, the only one in --cache-dir. Writes outputs/<run>/ as train_ear2d does. After a
stop (status 75), --resume outputs/<run> continues.
"""
from medical_fenlei import cli
from medical_fenlei.commands.train import train_command
from medical_fenlei.config import DUAL_ROUTE


def main(argv: list[str] | None = None) -> int:
    return train_command(__doc__, DUAL_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Train a network that reads an exam: each ear through the same weights, two diagnoses out.

    python scripts/train_dual.py --pct 20 --model dual_resnet50_3d --label-task normal_vs_diseased --auto-batch

Missing sides, and those whose diagnosis the task does not concern, enter neither the network nor the loss nor a metric. Takes
the cache that the preprocessing flags name; given none of them, the only one in --cache-dir. Writes outputs/<run>/ as
train_ear2d does. After a stop (status 75), --resume outputs/<run> goes on where it was saved.
"""
from medical_fenlei import cli
from medical_fenlei.commands.train import train_command
from medical_fenlei.config import DUAL_ROUTE


def main(argv: list[str] | None = None) -> int:
    return train_command(__doc__, DUAL_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

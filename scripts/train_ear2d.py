"""Train a network on single ears: a 2D encoder of each slice, pooled to one vector per ear.

    python scripts/train_ear2d.py --splits-root artifacts/splits_dual_patient --pct 20 --label-task normal_vs_abnormal \\
        --backbone resnet18

Uses the cache that the preprocessing flags name; without such flags, the only one in --cache-dir. Writes outputs/<run>/ with
config.json, metrics.jsonl, train.log, checkpoints/, tensorboard/ and reports/ (curves.png; epoch_<n>.json with each class of
the tune set). After a stop (status 75), --resume outputs/<run> continues; --resume auto starts or continues. For several GPUs:
torchrun --nproc-per-node N scripts/train_ear2d.py ...
"""
from medical_fenlei import cli
from medical_fenlei.commands.train import train_command
from medical_fenlei.config import EAR_ROUTE


def main(argv: list[str] | None = None) -> int:
    return train_command(__doc__, EAR_ROUTE, argv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

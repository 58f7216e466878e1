"""A rare diagnosis from frozen embeddings: prototype, nearest neighbours, and a strongly regularised logistic regression.

    python scripts/fewshot_code4.py --train-npz artifacts/emb_train.npz --val-npz artifacts/emb_val.npz \\
        --task normal_vs_cholesterol_granuloma

Settings are chosen by cross-validation inside the training patients; every figure has an interval that resamples patients.
Writes to artifacts/fewshot_<task>/: predictions.csv, neighbours.csv (the five nearest cases of each prediction, never the same
patient), metrics.json and fewshot.png. How many positives there were stands first: read the figures by it.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--train-npz", type=Path, default=Path("artifacts/emb_train.npz"), help="of extract_embeddings_ear2d")
    parser.add_argument("--val-npz", type=Path, default=Path("artifacts/emb_val.npz"), help="of extract_embeddings_ear2d")
    parser.add_argument("--task", default="normal_vs_cholesterol_granuloma", help="a binary task's name or Chinese alias")
    parser.add_argument("--out-dir", type=Path, help="default: artifacts/fewshot_<task>")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)

    import pandas as pd

    from medical_fenlei.embeddings.fewshot import few_shot
    from medical_fenlei.embeddings.fewshot_report import write_few_shot
    from medical_fenlei.embeddings.vectors import Embeddings
    from medical_fenlei.errors import UserError
    from medical_fenlei.files import sha256
    from medical_fenlei.metrics.predictions import SEED
    from medical_fenlei.tasks import BINARY_TASKS

    task = next((task for task in BINARY_TASKS if args.task in (task.name, task.alias)), None)
    if task is None:
        known = ", ".join(f"{task.name} ({task.alias})" for task in BINARY_TASKS)
        raise UserError(f"--task: got {args.task!r}, expected a task of two classes: {known}")
    train, val = Embeddings.read(args.train_npz), Embeddings.read(args.val_npz)
    found = few_shot(train, val, task, draws=args.draws)
    for name, n in found.counts.items():
        cli.say(f"{name}: {n['positive_ears']} positive ears of {n['positive_patients']} patients, "
                f"{n['negative_ears']} negative of {n['negative_patients']}")
    cli.show(pd.DataFrame([{"method": method, "chosen": found.chosen[method]["setting"],
                            "cross-validated auroc": f"{found.chosen[method]['auroc']:.3f}",
                            **{name: f"{i.estimate:.3f} ({i.low:.3f} to {i.high:.3f})" for name, i in intervals.values.items()}}
                           for method, intervals in found.intervals.items()]))
    for text in found.warnings:
        cli.warn(text)
    folder = args.out_dir or Path("artifacts") / f"fewshot_{task.name}"
    facts = {"data": {"train": sha256(args.train_npz), "val": sha256(args.val_npz)}, "seed": SEED, "draws": args.draws}
    cli.say("wrote " + ", ".join(map(str, write_few_shot(found, val, folder, task=task, facts=facts))))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

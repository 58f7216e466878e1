"""Classify a rare diagnosis from frozen embeddings: prototype, nearest neighbors, regularised logistic regression.

    python scripts/fewshot_code4.py --train-npz artifacts/emb_train.npz --val-npz artifacts/emb_val.npz \\
        --label-task normal_vs_cholesterol_granuloma

Settings are chosen by cross-validation inside the training patients; every figure has an interval that resamples patients.
Writes to artifacts/fewshot_<task>/: predictions.csv, neighbors.csv (the five nearest cases of each ear, never of the same
patient), metrics.json and fewshot.png. The number of positive ears comes first in the output: read the figures in its light.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.vocabulary import plural


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    for name in ("train", "val"):
        parser.add_argument(f"--{name}-npz", type=Path, default=Path(f"artifacts/emb_{name}.npz"), metavar="NPZ",
                            help=f"{name} embeddings, from extract_embeddings_ear2d (default: %(default)s)")
    parser.add_argument("--label-task", "--task", default="normal_vs_cholesterol_granuloma",
                        help="a binary task, by name or Chinese alias (default: %(default)s)")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="output folder (default: artifacts/fewshot_<task>)")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)

    from medical_fenlei.embeddings.fewshot import few_shot
    from medical_fenlei.embeddings.fewshot_report import write_few_shot
    from medical_fenlei.embeddings.vectors import Embeddings
    from medical_fenlei.files import sha256
    from medical_fenlei.metrics.bootstrap import SEED
    from medical_fenlei.tasks import BINARY_TASKS, find_task

    task = find_task(args.label_task, among=BINARY_TASKS)
    train, val = Embeddings.read(args.train_npz), Embeddings.read(args.val_npz)
    found = few_shot(train, val, task, n_resamples=args.resamples)
    for name, n in found.counts.items():
        cli.say(f"{name}: {plural(n['positive_ears'], 'positive ear')} of {plural(n['positive_patients'], 'patient')}, "
                f"{n['negative_ears']} negative of {n['negative_patients']}")
    cli.show(found.summary())
    for text in found.warnings:
        cli.warn(text)
    folder = args.out_dir or Path("artifacts") / f"fewshot_{task.name}"
    hashes = {"train": sha256(args.train_npz), "val": sha256(args.val_npz)}
    facts = {"data": hashes, "seed": SEED, "n_resamples": args.resamples}
    cli.say("wrote " + ", ".join(map(str, write_few_shot(found, val, folder, task=task, facts=facts))))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

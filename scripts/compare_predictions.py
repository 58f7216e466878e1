"""Is one network better than another, on the same ears?

    python scripts/compare_predictions.py --predictions outputs/<one>/reports/predictions_val.csv \\
        outputs/<other>/reports/predictions_val.csv --label-task normal_vs_abnormal --out-dir artifacts/comparison

Every measure of either, the difference (the second minus the first) with its 95 % interval, patients resampled for both at
once, and a p of no difference; that of the AUROC of a binary task by its variance over patients (DeLong, Obuchowski). Ears that
only one of them has are left out, and counted. Writes comparison.csv and comparison.png.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--predictions", type=Path, nargs=2, required=True, metavar="CSV",
                        help="predictions_<set>.csv of two runs")
    parser.add_argument("--label-task", default="normal_vs_abnormal", help="what they tell apart (default: normal_vs_abnormal)")
    parser.add_argument("--out-dir", type=Path, default=Path("artifacts/comparison"), help="default: artifacts/comparison")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.evaluation.compare import compare
    from medical_fenlei.evaluation.plots import plot_differences
    from medical_fenlei.tasks import find_task

    task = find_task(args.label_task)
    one, other = (tables.PREDICTIONS.read(path) for path in args.predictions)
    found = compare(one, other, task, draws=args.draws)
    csv, png = args.out_dir / "comparison.csv", args.out_dir / "comparison.png"
    tables.COMPARISON.write(csv, found.table)
    plot_differences(png, found.table, title=f"{args.predictions[1]}\nminus {args.predictions[0]}; {found.ears} ears")
    cli.say(f"{task.name}: {found.ears} ears of {found.patients} patients that both have"
            + (f", {found.left_out} left out that one lacks" if found.left_out else ""))
    cli.show(found.table.round(4))
    for text in found.warnings:
        cli.warn(text)
    cli.say(f"wrote {csv}, {png}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

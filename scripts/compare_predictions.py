"""Compare two networks on the same ears.

    python scripts/compare_predictions.py --predictions outputs/<one>/reports/predictions_val.csv \\
        outputs/<other>/reports/predictions_val.csv --label-task normal_vs_abnormal --out-dir artifacts/comparison

Computes each measure of both networks, the difference (second minus first) with its 95 % interval (patients resampled for both
together) and the p-value of no difference. For the AUROC of a binary task it uses the variance over patients (DeLong,
Obuchowski). Ears that only one network has are left out and counted; measures that rest on too few patients are not tested.
Both must be calibrated or both not, and decided at the same operating point. Writes comparison.csv and comparison.png.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.vocabulary import plural


def folder_for(predictions: list[Path]) -> Path:
    """The default output folder: another pair of runs, or another set, has another one."""
    runs = [path.absolute().parent.parent for path in predictions]
    names = [run.name for run in runs] if runs[0].name != runs[1].name else [f"{run.parent.name}_{run.name}" for run in runs]
    return Path("artifacts/comparison") / f"{'_vs_'.join(names)}_{predictions[0].stem.removeprefix('predictions_')}"


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--predictions", type=Path, nargs=2, required=True, metavar="CSV",
                        help="predictions_<set>.csv of two runs")
    parser.add_argument("--label-task", default="normal_vs_abnormal",
                        help="their task, by name or Chinese alias (default: %(default)s)")
    cli.add_shared_flags(parser, "resamples")
    parser.add_argument("--out-dir", type=Path, metavar="DIR",
                        help="output folder (default: artifacts/comparison/<run>_vs_<run>_<set>)")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.evaluation.compare import compare, p_value
    from medical_fenlei.evaluation.comparison_plot import plot_differences
    from medical_fenlei.evaluation.like_with_like import read_evaluated, refuse_unlike
    from medical_fenlei.tasks import find_task

    task = find_task(args.label_task)
    one, other = (tables.read_predictions(path, task) for path in args.predictions)
    evaluated = [read_evaluated(path, own) for path, own in zip(args.predictions, (one, other), strict=True)]
    refuse_unlike([own for own in evaluated if own is not None], "compare again")
    found = compare(one, other, task, n_resamples=args.resamples)
    out_dir = args.out_dir or folder_for(args.predictions)
    csv, png = out_dir / "comparison.csv", out_dir / "comparison.png"
    tables.COMPARISON.write(csv, found.table)
    first, second = (f"{path.parent.parent} ({path.stem})" for path in args.predictions)
    plot_differences(png, found.table, title=f"first: {first}\nsecond: {second}\n{task.name}, {plural(found.ears, 'ear')} of "
                                             f"{plural(found.patients, 'patient')}")
    cli.say(f"{task.name}: {plural(found.ears, 'ear')} of {plural(found.patients, 'patient')} in both files"
            + (f", {found.left_out} left out that are in one only" if found.left_out else ""))
    cli.show(found.table[list(tables.COMPARISON.columns)].assign(p=found.table.p.map(p_value)).round(4))
    unknown = [str(path) for path, own in zip(args.predictions, evaluated, strict=True) if own is None]
    if unknown:
        cli.warn(f"no evaluation id in {' and '.join(unknown)}: calibration and operating point may differ")
    for text in found.warnings:
        cli.warn(text)
    cli.say(f"wrote {csv}, {png}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

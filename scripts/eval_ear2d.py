"""How good is a trained ear network? Each measure with an interval that resamples patients.

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt

The run's configuration says where its data, splits and cache are; flags override it. Writes to outputs/<run>/reports/:
predictions_<set>.csv (with the top slices by attention), metrics_<set>.json, hard_cases_<set>.csv and curves_<set>.png.
"""
from dataclasses import replace

from medical_fenlei import cli, settings
from medical_fenlei.tables import SETS
from medical_fenlei.training.config import DataConfig


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "checkpoint", "device")
    parser.add_argument("--split", choices=SETS, default="val", help="which set (default: val)")
    parser.add_argument("--batch-size", type=int, help="ears a step (default: the run's)")
    parser.add_argument("--draws", type=int, default=2000, help="resamples of an interval (default: 2000)")
    settings.add_flags(parser, DataConfig, leave_out=("label_task",))
    args = parser.parse_args(argv)

    from medical_fenlei.analysis.evaluate import evaluate, write_reports
    from medical_fenlei.analysis.trained import open_ear2d
    from medical_fenlei.report.plots import plot_evaluation

    trained = open_ear2d(args.checkpoint, device=args.device)
    data = settings.from_flags(DataConfig, args, base=trained.config.data)
    batch_size = args.batch_size or trained.config.training.batch_size
    result = evaluate(trained, replace(data, label_task=trained.task.name), args.split, batch_size=batch_size, draws=args.draws)
    curves = trained.run.reports / f"curves_{args.split}.png"
    written = [*write_reports(result, trained.run.reports), curves]
    plot_evaluation(curves, result.predictions, result.task, result.intervals)
    cli.say(f"{trained.task.name}, {args.split}: {result.ears} ears of {result.intervals.patients} patients, "
            + ", ".join(f"{number} {name}" for name, number in result.per_class.items()))
    cli.show(result.table())
    for text in (*result.intervals.warnings, *result.warnings):
        cli.warn(text)
    cli.say("wrote " + ", ".join(map(str, written)))
    return cli.report_rejects(result.rejects, trained.run.reports / f"eval_{args.split}.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

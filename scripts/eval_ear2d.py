"""How good is a trained ear network? Each measure with an interval that resamples patients.

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt

The run's configuration says where its data, splits and cache are; flags override it. Writes to outputs/<run>/reports/:
predictions_<set>.csv (with the top slices by attention), metrics_<set>.json, hard_cases_<set>.csv and curves_<set>.png; with
--limit N the names say so. Of a network with several tasks each is measured on its own ears, and stands in the names too:
predictions_<set>_<task>.csv.
"""
from medical_fenlei import cli
from medical_fenlei.experiments.route import add_checkpoint_flags, open_checkpoint
from medical_fenlei.tables import SETS
from medical_fenlei.training.config import EAR2D


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser)
    parser.add_argument("--split", choices=SETS, default="val", help="which set (default: val)")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)

    from medical_fenlei.analysis.evaluate import evaluate, table_of
    from medical_fenlei.report.evaluation import write_evaluation

    trained, data = open_checkpoint(args, kind=EAR2D)
    results = evaluate(trained, data, args.split, batch_size=args.batch_size, draws=args.draws)
    for result in results:
        written = write_evaluation(result, trained.run.reports)
        cli.say(f"{result.task.name}, {args.split}: {result.ears} ears of {result.intervals.patients} patients, "
                + ", ".join(f"{number} {name}" for name, number in result.per_class.items()))
        cli.show(table_of(result.intervals))
        for text in (*result.intervals.warnings, *result.warnings):
            cli.warn(text)
        cli.say("wrote " + ", ".join(map(str, written)))
    return cli.report_rejects(results[0].rejects, trained.run.reports / f"eval_{results[0].set_name}.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

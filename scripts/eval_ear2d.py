"""How good is a trained ear network? Each measure with an interval that resamples patients.

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt

The run's configuration says where its data, splits and cache are; flags override it. What calibrate_ear2d fitted is applied
(--uncalibrated: not), and decides at its operating point (--point another). Writes to outputs/<run>/reports/:
predictions_<set>.csv (with the top slices by attention), metrics_<set>.json, hard_cases_<set>.csv, subgroups_<set>.csv and .png
(side, maker, kernel, thickness, age, sex, dates), curves_<set>.png, and report.html, the page of the run; with --limit N the
names say so. Of a network with several tasks each is measured on its own ears, and stands in the names too:
predictions_<set>_<task>.csv. Patients of another hospital: --split manifest with their --manifest-csv and --dicom-base.
"""
from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.tables import SETS, WHOLE_MANIFEST


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser)
    parser.add_argument("--split", choices=(*SETS, WHOLE_MANIFEST), default="val",
                        help="which set; manifest: all of --manifest-csv but whom the network was fitted on (default: val)")
    parser.add_argument("--point", help="the operating point that decides (default: the one that calibrate_ear2d was given)")
    parser.add_argument("--pictures", type=cli.at_least(0), default=20,
                        help="hardest cases that the page shows with pictures (default: 20); gradcam_ear2d --all draws all")
    parser.add_argument("--uncalibrated", action="store_true", help="leave aside what calibrate_ear2d fitted")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)

    import numpy as np

    from medical_fenlei.evaluation.evaluate import evaluate, table_of
    from medical_fenlei.evaluation.report import write_evaluation
    from medical_fenlei.explanations.pictures import explain_ears
    from medical_fenlei.metrics.predictions import surprise
    from medical_fenlei.run_report.page import write_page
    from medical_fenlei.trained.calibration import Calibration

    trained, data = open_checkpoint(args, kind=EAR2D)
    calibration = None if args.uncalibrated else Calibration.of(args.checkpoint)
    results = evaluate(trained, data, args.split, batch_size=args.batch_size, draws=args.draws, calibration=calibration,
                       point=args.point)
    for result in results:
        written = write_evaluation(result, trained.run.reports)
        cli.say(f"{result.task.name}, {args.split}: {result.ears} ears of {result.intervals.patients} patients, "
                + ", ".join(f"{number} {name}" for name, number in result.per_class.items())
                + (f"; temperature {result.fitted.temperature:.3f}, decided at {result.fitted.threshold:.3f} "
                   f"({result.fitted.point})" if result.calibrated else "; not calibrated"))
        cli.show(table_of(result.intervals))
        for text in (*result.intervals.warnings, *result.warnings):
            cli.warn(text)
        cli.say("wrote " + ", ".join(map(str, written)))
        if args.pictures:
            hardest = result.predictions.iloc[np.argsort(-surprise(result.predictions, result.task))[:args.pictures]]
            folder = trained.run.reports / f"explanations_{result.label}"
            drawn = explain_ears(trained, trained.store(data), hardest, result.task, folder, label="pictures",
                                 fitted=result.fitted)
            if len(drawn.rejects):
                cli.warn(f"{len(drawn.rejects)} cases could not be drawn: {drawn.rejects.detail.iloc[0]}")
    cli.say(f"look at {write_page(trained.run)}")
    return cli.report_rejects(results[0].rejects, trained.run.reports / f"eval_{results[0].set_name}.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

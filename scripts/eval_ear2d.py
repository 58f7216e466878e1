"""Evaluate a trained ear network: every measure with a confidence interval that resamples patients.

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt

Data, splits and cache are those of the run's configuration; flags override them. If calibrate_ear2d has been run, its
calibration is applied and its operating point decides, or --point. Writes to outputs/<run>/reports/: predictions_<set>.csv
(with the top slices by attention), metrics_<set>.json, hard_cases_<set>.csv, subgroups_<set>.csv and .png (side, manufacturer,
kernel, thickness, age, sex, dates), curves_<set>.png, and report.html, the report of the run. For a network with several tasks,
each is evaluated on its own ears: predictions_<set>_<task>.csv. With --limit, the file names contain it. Patients of
another hospital are a cohort with a name, side by side with the run's own on its page:

    python scripts/eval_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --cohort hospital_b \\
        --manifest-csv artifacts/hospital_b/manifest_ears.csv --dicom-base data/hospital_b
"""
from typing import TYPE_CHECKING

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import EAR2D, DataConfig
from medical_fenlei.vocabulary import SETS, WHOLE_MANIFEST

if TYPE_CHECKING:
    from medical_fenlei.evaluation.evaluate import Evaluation
    from medical_fenlei.trained.network import TrainedNetwork


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser)
    add_set_flags(parser, choices=(*SETS, WHOLE_MANIFEST), does="evaluate")
    parser.add_argument("--point", help="operating point that decides (default: the one that calibrate_ear2d chose)")
    parser.add_argument("--pictures", type=cli.int_at_least(0), default=20, metavar="N",
                        help="number of hardest cases shown with a picture in the report (default: %(default)s)")
    parser.add_argument("--uncalibrated", action="store_true", help="do not apply what calibrate_ear2d fitted")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)
    set_name = args.cohort or args.split

    network, data = open_checkpoint(args, kind=EAR2D, sets=(set_name,))

    from medical_fenlei.evaluation.evaluate import evaluate

    results = evaluate(network, data, set_name, batch_size=args.batch_size, n_resamples=args.resamples,
                       calibrated=not args.uncalibrated, point=args.point)

    from medical_fenlei.evaluation.write import write_evaluation
    from medical_fenlei.run_report.page import write_page

    for result in results:
        written = write_evaluation(result, network.run.reports)
        show(result)
        cli.say("wrote " + ", ".join(map(str, written)))
        if args.pictures:
            draw_hardest(network, data, result, args.pictures)
    cli.say(f"look at {write_page(network.run)}")
    return cli.report_rejects(results[0].rejects, network.run.reports / f"eval_{results[0].set_name}.csv")


def show(result: "Evaluation") -> None:
    """Print the ears, the calibration, every measure with its interval, and the warnings."""
    from medical_fenlei.metrics.interval_table import interval_table

    counts = ", ".join(f"{number} {name}" for name, number in result.per_class.items())
    calibration, decided = result.calibration, "not calibrated"
    if calibration.is_fitted:
        decided = (f"temperature {calibration.temperature:.3f}, decided at {calibration.threshold:.3f} "
                   f"({calibration.point})")
    cli.say(f"{result.task.name}, {result.set_name}: {result.ears} ears of {result.intervals.patients} patients, {counts}; "
            f"{decided}")
    cli.show(interval_table(result.intervals))
    for text in (*result.intervals.warnings, *result.warnings):
        cli.warn(text)


def draw_hardest(network: "TrainedNetwork", data: DataConfig, result: "Evaluation", number: int) -> None:
    """Draw an explanation of the ears with the greatest negative log-likelihood."""
    import numpy as np

    from medical_fenlei.explanations.explain import explain_ears
    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.metrics.predictions import negative_log_likelihood

    order = np.argsort(-negative_log_likelihood(result.predictions, result.task))
    folder = network.run.reports / f"explanations_{result.label}"
    drawn = explain_ears(network, network.store(data), result.predictions.iloc[order[:number]], result.task, folder,
                         ExplanationRequest(), result.calibration)
    if len(drawn.rejects):
        cli.warn(f"{len(drawn.rejects)} cases could not be drawn: {drawn.rejects.detail.iloc[0]}")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

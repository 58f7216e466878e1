"""eval_ear2d and eval_dual: measure a network on a set of ears, write the figures, and show them."""
from typing import TYPE_CHECKING

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import DUAL, EAR2D, DataConfig
from medical_fenlei.vocabulary import SETS, WHOLE_MANIFEST, plural

if TYPE_CHECKING:
    from medical_fenlei.evaluation.evaluate import Evaluation
    from medical_fenlei.trained.network import TrainedNetwork

PICTURES = {EAR2D: 20, DUAL: 4}
"""Pictures of the hardest cases by the kind of the network: without a GPU those of a large 3D network take minutes each."""


def evaluate_command(doc: str | None, kind: str, argv: list[str] | None) -> int:
    """Parse the flags of eval_ear2d or eval_dual, evaluate the network, and return the exit status."""
    parser = cli.parser(doc)
    add_checkpoint_flags(parser)
    add_set_flags(parser, choices=(*SETS, WHOLE_MANIFEST), does="evaluate")
    parser.add_argument("--point", help="operating point that decides (default: the one that calibration chose)")
    parser.add_argument("--pictures", type=cli.int_at_least(0), default=PICTURES[kind], metavar="N",
                        help="number of hardest cases shown with a picture in the report (default: %(default)s)")
    parser.add_argument("--uncalibrated", action="store_true", help="do not apply what calibration fitted")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)
    set_name = args.cohort or args.split

    network, data = open_checkpoint(args, kind=kind, job="eval", sets=(set_name,))

    from medical_fenlei.evaluation.evaluate import evaluate

    results = evaluate(network, data, set_name, batch_size=args.batch_size, n_resamples=args.resamples,
                       calibrated=not args.uncalibrated, point=args.point)

    from medical_fenlei.evaluation.write import write_evaluation
    from medical_fenlei.run_report.page import write_page

    for result in results:
        written = write_evaluation(result, network.run.reports)
        _show(result)
        cli.say("wrote " + ", ".join(map(str, written)))
    page = write_page(network.run)
    cli.say(f"look at {page}")
    if args.pictures:
        each = "some seconds each" if kind == EAR2D else "without a GPU minutes each"
        cli.say(f"pictures of the hardest cases follow, {args.pictures} at most ({each}; --pictures 0 makes none)")
        drawn = sum(_draw_hardest(network, data, result, args.pictures) for result in results)
        page = write_page(network.run)
        cli.say(f"{plural(drawn, 'picture')} of the hardest cases added to {page}")
    return cli.report_rejects(results[0].rejects, network.run.reports / f"eval_{results[0].set_name}.csv")


def _show(result: "Evaluation") -> None:
    """Print the ears, the calibration, every measure with its interval, and the warnings."""
    from medical_fenlei.metrics.interval_table import interval_table

    counts = ", ".join(f"{number} {name}" for name, number in result.per_class.items())
    calibration, decided = result.calibration, "not calibrated"
    if calibration.is_fitted:
        decided = f"temperature {calibration.temperature:.3f}"
        decided += f", decided at {calibration.threshold:.3f} ({calibration.point})" if calibration.points else ""
    cli.say(f"{result.task.name}, {result.set_name}: {plural(result.ears, 'ear')} of "
            f"{plural(result.intervals.patients, 'patient')}, {counts}; {decided}")
    cli.show(interval_table(result.intervals))
    for text in (*result.intervals.warnings, *result.warnings):
        cli.warn(text)


def _draw_hardest(network: "TrainedNetwork", data: DataConfig, result: "Evaluation", number: int) -> int:
    """Draw an explanation of the ears with the greatest negative log-likelihood; return how many there are."""
    import numpy as np

    from medical_fenlei.explanations.explain import explain_ears
    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.metrics.predictions import negative_log_likelihood

    order = np.argsort(-negative_log_likelihood(result.predictions, result.task))
    folder = network.run.reports / f"explanations_{result.label}"
    drawn = explain_ears(network, network.store(data), result.predictions.iloc[order[:number]], result.task, folder,
                         ExplanationRequest(), result.calibration)
    if len(drawn.rejects):
        cli.warn(f"{plural(len(drawn.rejects), 'case')} could not be drawn: {drawn.rejects.detail.iloc[0]}")
    return drawn.made + drawn.kept

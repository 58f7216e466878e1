"""Predict new exams straight from a folder of DICOM, without labels, index or manifest.

    python scripts/predict_ear2d.py --dicom DIR --checkpoint outputs/<run>/checkpoints/best.pt --out-dir predictions

The folder may contain one exam or many, in any layout. Series are chosen as by build_index. Each ear gets a probability, a
decision, flags for anything doubtful, and a picture of what the prediction rests on. Scans unlike the training data are
refused, with the reason; --force predicts and marks them. Writes predictions.csv, predictions.json, page.html and one folder
per exam to --out-dir; exams whose files are unchanged are not predicted again.

Research use only; not a medical device.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import check_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.vocabulary import plural


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--dicom", type=Path, required=True, metavar="DIR", help="folder of DICOM exams, in any layout")
    cli.add_flag(parser, "--out-dir", "--out", type=Path, required=True, metavar="DIR", help="folder of the answers")
    cli.add_shared_flags(parser, "checkpoint", "device", "num_workers", "cluster", "limit", "series_rules")
    parser.add_argument("--label-task", metavar="NAME,NAME",
                        help="tasks of the network, by name or Chinese alias (default: all)")
    parser.add_argument("--point", help="operating point that decides (default: the one that calibrate_ear2d chose)")
    parser.add_argument("--force", action="store_true", help="also answer for scans that are unlike all training scans")
    cli.add_flag(parser, "--top-k", "--top", type=cli.int_at_least(0), default=4, metavar="K",
                 help="slices to show of each ear, 0 for none (default: %(default)s)")
    parser.add_argument("--method", default="hirescam", metavar="NAME",
                        help="method of the overlays, as for gradcam_ear2d; integrated localizes better and takes about ten "
                        "times as long (default: %(default)s)")
    args = parser.parse_args(argv)

    from medical_fenlei.explanations.methods import check_methods
    from medical_fenlei.ingest.exams import find_loose_exams
    from medical_fenlei.ingest.series_rules import read_rules
    from medical_fenlei.new_exams.output_folder import OUTPUTS, refuse_others_files

    check_methods([args.method])
    check_checkpoint(args.checkpoint, kind=EAR2D, job="predict")
    rules = read_rules(args.series_rules)
    exams, strays = find_loose_exams(args.dicom, rules=rules, workers=cli.workers(args), reserved=OUTPUTS)
    cli.say(f"{args.dicom}: {plural(len(exams), 'exam')}")
    exams = exams[: args.limit]
    refuse_others_files(args.out_dir, exams)

    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.new_exams.predictor import Predictor
    from medical_fenlei.new_exams.report import write_answers
    from medical_fenlei.tasks import find_tasks
    from medical_fenlei.trained.network import open_network  # slow to import

    network = open_network(args.checkpoint, kind=EAR2D, device=args.device)
    tasks = find_tasks(args.label_task, among=network.tasks) if args.label_task else network.tasks
    request = ExplanationRequest(methods=(args.method,), top=args.top_k) if args.top_k else None
    predictor = Predictor.of(network, tasks=tasks, rules=rules, point=args.point, request=request, force=args.force)
    for name, fitted in predictor.ears.calibrations.items():
        at = f", decided at {fitted.threshold:.4f} ({fitted.point})" if fitted.points else ""
        cli.say(f"{name}: {'calibrated' if name in predictor.ears.calibrated else 'not calibrated'}{at}")
    if predictor.scope.trained_on is None:
        cli.warn("it is not known what this network was trained on: whether the scans are like it cannot be checked")
    done = write_answers(args.out_dir, args.dicom, exams, strays, predictor, workers=cli.workers(args))
    ears = [ear for answer in done.answers for ear in answer.ears]
    cli.say(f"{plural(len(done.answers), 'exam')}, {len(done.answers) - done.new} of them answered before; "
            f"{plural(sum(bool(ear.tasks) for ear in ears), 'ear')} answered, {sum(bool(ear.flags) for ear in ears)} of "
            f"them with a flag, {sum(1 for ear in ears if ear.refused)} refused")
    cli.say(f"wrote predictions.csv, predictions.json and page.html to {args.out_dir}")
    return cli.report_rejects(done.rejects, args.out_dir / "predictions.csv", faults=done.faults, harmless=done.harmless)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

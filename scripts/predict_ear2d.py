"""Answers for new exams, straight from a folder of DICOM: no label, no index, no manifest.

    python scripts/predict_ear2d.py --dicom DIR --checkpoint outputs/<run>/checkpoints/best.pt --out predictions

The folder may hold one exam or many, in any layout. The series of each is chosen as build_index does; each ear gets a
probability, a decision, flags where something is doubtful, and a picture of what the answer rests on. What is unlike all that
the network was trained on is refused, and the reason said; --force answers all the same, and marks it. Writes predictions.csv,
predictions.json, page.html and a folder an exam to --out; exams that were answered before from the same files are not done
again.

Research use only; not a medical device.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.config import EAR2D


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--dicom", type=Path, required=True, metavar="DIR", help="exams, in any layout")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the answers go")
    cli.add(parser, "checkpoint", "device", "num_workers", "cluster", "limit")
    parser.add_argument("--label-task", metavar="NAME,NAME", help="which of the network's tasks (default: all)")
    parser.add_argument("--point", help="operating point of binary tasks (default: the one that calibrate_ear2d chose)")
    parser.add_argument("--series-rules", type=Path, metavar="FILE", help="TOML, as for build_index")
    parser.add_argument("--force", action="store_true", help="answer for scans beyond what the network was trained on, too")
    parser.add_argument("--top", type=cli.at_least(0), default=4, help="slices to show of an ear, 0 for none (default: 4)")
    parser.add_argument("--method", default="hirescam", help="of the overlays, as for gradcam_ear2d; integrated points better, "
                        "and takes some ten times as long (default: hirescam)")
    args = parser.parse_args(argv)

    from medical_fenlei.errors import UserError
    from medical_fenlei.explanations.maps import METHODS
    from medical_fenlei.ingest.exams import find_loose_exams
    from medical_fenlei.ingest.series_choice import read_rules
    from medical_fenlei.new_exams.page import write_answers
    from medical_fenlei.new_exams.predictor import Predictor
    from medical_fenlei.tasks import find_tasks
    from medical_fenlei.trained.network import open_trained

    if args.out.resolve().is_relative_to(args.dicom.resolve()):
        raise UserError(f"--out {args.out}: lies within --dicom {args.dicom}, where it would be taken for an exam")
    trained = open_trained(args.checkpoint, kind=EAR2D, device=args.device)
    tasks = find_tasks(args.label_task, among=trained.tasks) if args.label_task else trained.tasks
    rules = read_rules(args.series_rules)
    if args.method not in METHODS:
        raise UserError(f"--method: got {args.method!r}, expected one of {', '.join(METHODS)}")
    predictor = Predictor.of(trained, args.checkpoint, tasks=tasks, rules=rules, point=args.point, top=args.top,
                             force=args.force, method=args.method)
    for name, fitted in predictor.fitted.items():
        at = f", decided at {fitted.threshold:.4f} ({fitted.point})" if fitted.points else ""
        cli.say(f"{name}: {'calibrated' if name in predictor.calibrated else 'not calibrated'}{at}")
    if predictor.scope.trained_on is None:
        cli.warn("it is not known what this network was trained on: whether the scans are like it cannot be checked")
    exams, strays = find_loose_exams(args.dicom, rules=rules, workers=cli.workers(args))
    done = write_answers(args.out, args.dicom, exams[: args.limit], strays, predictor, args.checkpoint,
                         workers=cli.workers(args))
    ears = [ear for answer in done.answers for ear in answer.ears]
    cli.say(f"{len(done.answers)} exams, {len(done.answers) - done.new} of them answered before; "
            f"{sum(1 for ear in ears if ear.tasks)} ears answered, {sum(1 for ear in ears if ear.flags)} of them with a flag, "
            f"{sum(1 for ear in ears if ear.refused)} refused")
    cli.say(f"wrote predictions.csv, predictions.json and page.html to {args.out}")
    return cli.report_rejects(done.rejects, args.out / "predictions.csv", faults=done.faults, harmless=done.harmless)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Explain the predictions of a trained ear network, for one ear or for every ear of a set.

    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --all --split val

One ear: grey slice, heat map and overlay of the top slices (PNG, in the network's bone window), an overview with every method
(overview.png), and gradcam.json with the position of each slice and of each map's peak in the patient, in
outputs/<run>/reports/gradcam/<id>_<side>/ (several tasks: a folder <task>/ each). --all: an overview of each labelled ear,
reports/explanations_<set>/<id>_<side>.png, and explanations_<set>.csv; it can be interrupted and resumed. --cohort NAME:
patients of another hospital (eval_ear2d), in folders with its name. Methods: integrated
(integrated gradients from air to the ear, the finest) and the class activation maps gradcam, gradcam++, hirescam, layercam,
xgradcam. Works with any timm backbone, convolutional or transformer.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import SETS, SIDES, Side


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("data_on", "read_workers"))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exam-id", help="explain one ear: its exam")
    which.add_argument("--all", action="store_true", help="explain every labelled ear of --split (default: val)")
    parser.add_argument("--side", choices=[str(side) for side in SIDES], help="explain one ear: its side of the patient")
    add_set_flags(parser, choices=SETS, does="explain", default=None)
    cli.add_flag(parser, "--top-k", "--top", type=cli.int_at_least(1), default=5, metavar="K",
                 help="slices to show (default: %(default)s)")
    parser.add_argument("--target", default="predicted", help="name of the class to explain (default: the predicted class)")
    parser.add_argument("--method", default="integrated,hirescam", metavar="NAME,NAME",
                        help="methods, the main one first (default: %(default)s)")
    parser.add_argument("--layer", help="stage of the backbone for class activation maps (default: the last; hirescam and "
                        "layercam: the one of stride 4)")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="output folder (default: see above)")
    args = parser.parse_args(argv)
    if args.exam_id and not args.side:
        raise UserError("--exam-id: needs --side left or --side right")
    if args.all and args.side:
        raise UserError("--all: takes both sides; leave --side away")
    if args.exam_id and args.split:
        raise UserError("--split: is for --all; an exam is found whatever its set")

    from medical_fenlei.explanations.methods import check_methods

    check_methods(args.method.split(","))
    set_name, out_dir = args.cohort or args.split or "val", args.out_dir
    network, data = open_checkpoint(args, kind=EAR2D, job="gradcam", sets=(set_name,) if args.all else (),
                                    ear=None if args.all else (args.exam_id, args.side))

    from medical_fenlei.explanations.explain import explain_ear, explain_set
    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.run_report.page import write_page
    from medical_fenlei.vocabulary import DIAGNOSES

    request = ExplanationRequest(target=args.target, methods=tuple(args.method.split(",")), top=args.top_k, layer=args.layer)
    if args.all:
        explained = explain_set(network, data, set_name, request, out_dir)
        for own in explained.tasks:
            cli.say(f"{own.task.name}, {set_name}: {own.ears} ears: {own.done.made} explained, {own.done.kept} were there, "
                    f"{len(own.done.rejects)} could not be")
            cli.say(f"wrote {own.csv}; look into {own.csv.with_suffix('')}")
        if args.out_dir is None:
            cli.say(f"the page has them: {write_page(network.run)}")
        return cli.report_rejects(explained.rejects, explained.csv)
    if args.cohort and out_dir is None:                          # another hospital may use the same exam id
        out_dir = network.run.reports / f"gradcam_{args.cohort}" / f"{args.exam_id}_{args.side}"
    for written in explain_ear(network, data, args.exam_id, Side(args.side), request, out_dir):
        code, found = written.ear.label_code, written.ear.explanation
        label = f"labelled {code} ({DIAGNOSES[code].english})" if code else "without a label"
        cli.say(f"{args.exam_id} {args.side}, {label}: {found.class_name} with probability {found.probability:.3f}; "
                f"slices {', '.join(map(str, found.slices))} by {found.ranked_by}")
        cli.say(f"wrote {len(written.files)} files to {written.folder}; look at {written.folder / 'overview.png'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

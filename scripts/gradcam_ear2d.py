"""What a trained ear network looked at: in one ear, or in every ear of a set.

    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left
    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --all --split val

One ear: grey slice, heat map and overlay of its top slices (PNG, in the network's bone window), all of them together by every
method (overview.png) and gradcam.json, with the place of each slice and of each map's peak in the patient, in
outputs/<run>/reports/gradcam/<id>_<side>/; of a network with several tasks in a folder in it for each, <id>_<side>/<task>/.
--all: the overview of each labelled ear of the set as reports/explanations_<set>/<id>_<side>.png, and explanations_<set>.csv;
it may be stopped, and goes on where it was. Methods: integrated (integrated gradients from air to the ear, the finest),
and class activation: gradcam, gradcam++, hirescam, layercam, xgradcam. Any backbone of timm, convolutional or transformer.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.tables import SETS
from medical_fenlei.vocabulary import SIDES, Side


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("data_on", "read_workers"))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exam-id", help="the exam of one ear")
    which.add_argument("--all", action="store_true", help="every labelled ear of --split")
    parser.add_argument("--side", choices=SIDES, help="of the patient, with --exam-id")
    parser.add_argument("--split", choices=SETS, help="which set, with --all (default: val)")
    parser.add_argument("--top", type=cli.at_least(1), default=5, help="slices to show (default: 5)")
    parser.add_argument("--target", default="predicted", help="the class to explain, by its name (default: the predicted one)")
    parser.add_argument("--method", default="integrated,hirescam", help="commas between several; the first is shown most "
                        "(default: integrated,hirescam)")
    parser.add_argument("--layer", help="of class activation: a stage of the backbone (default: the last; hirescam and "
                        "layercam: that of stride 4)")
    parser.add_argument("--out-dir", type=Path, help="default: see above")
    args = parser.parse_args(argv)
    if args.exam_id and not args.side:
        raise UserError("--exam-id: needs --side left or --side right")
    if args.all and args.side:
        raise UserError("--all: takes both sides; leave --side away")
    if args.exam_id and args.split:
        raise UserError("--split: is for --all; an exam is found whatever its set")

    from medical_fenlei.explanations.explain import Request, explain_one, explain_set
    from medical_fenlei.run_report.page import write_page
    from medical_fenlei.vocabulary import DIAGNOSES

    request = Request(target=args.target, methods=tuple(args.method.split(",")), top=args.top, layer=args.layer)
    trained, data = open_checkpoint(args, kind=EAR2D)
    if args.all:
        split = args.split or "val"
        sets, rejects, table = explain_set(trained, args.checkpoint, data, split, request, args.out_dir)
        for own in sets:
            cli.say(f"{own.task.name}, {split}: {own.ears} ears: {own.done.made} explained, {own.done.kept} were there, "
                    f"{len(own.done.rejects)} could not be")
            cli.say(f"wrote {own.csv}; look into {own.csv.with_suffix('')}")
        if args.out_dir is None:
            cli.say(f"the page has them: {write_page(trained.run)}")
        return cli.report_rejects(rejects, table)
    for ear in explain_one(trained, args.checkpoint, data, args.exam_id, Side(args.side), request, args.out_dir):
        label = f"labelled {ear.label_code} ({DIAGNOSES[ear.label_code].english})" if ear.label_code else "without a label"
        cli.say(f"{args.exam_id} {args.side}, {label}: {ear.found.class_name} with probability {ear.found.probability:.3f}; "
                f"slices {', '.join(map(str, ear.found.slices))} by {ear.found.ranked_by}")
        cli.say(f"wrote {len(ear.files)} files to {ear.folder}; look at {ear.folder / 'overview.png'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

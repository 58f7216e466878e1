"""gradcam_ear2d and gradcam_dual: explain the ears of one exam, or every ear of a set."""
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.config import EAR2D, DataConfig
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import DIAGNOSES, SETS, SIDES, Side

if TYPE_CHECKING:
    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.trained.network import TrainedNetwork


def explain_command(doc: str | None, kind: str, argv: list[str] | None) -> int:
    """Parse the flags of gradcam_ear2d or gradcam_dual, write the explanations, and return the exit status."""
    args = _flags(doc, kind, argv)

    from medical_fenlei.explanations.methods import check_methods

    check_methods(args.method.split(","))
    sides = (Side(args.side),) if args.side else SIDES
    set_name = args.cohort or args.split or "val"
    network, data = open_checkpoint(args, kind=kind, job="gradcam", sets=(set_name,) if args.all else (),
                                    exam=None if args.all else (args.exam_id, sides))

    from medical_fenlei.explanations.maps import ExplanationRequest

    request = ExplanationRequest(target=args.target, methods=tuple(args.method.split(",")), top=args.top_k, layer=args.layer)
    if args.all:
        return _explain_set(network, data, set_name, request, args.out_dir)
    # another hospital may use the same exam id
    below = network.run.reports / (f"gradcam_{args.cohort}" if args.cohort else "gradcam")
    folders = {side: below / f"{args.exam_id}_{side}" for side in sides}
    if args.out_dir:
        folders = {side: args.out_dir / side if len(sides) > 1 else args.out_dir for side in sides}
    return _explain_exam(network, data, args.exam_id, folders, request)


def _flags(doc: str | None, kind: str, argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser(doc)
    add_checkpoint_flags(parser, leave_out=("data_on", "read_workers"))
    which = parser.add_mutually_exclusive_group(required=True)
    one, both = ("one ear", "") if kind == EAR2D else ("the ears of one exam", " (default: both)")
    which.add_argument("--exam-id", help=f"explain {one}: {'its' if kind == EAR2D else 'the'} exam")
    which.add_argument("--all", action="store_true", help="explain every labelled ear of --split (default: val)")
    parser.add_argument("--side", choices=[str(side) for side in SIDES], help=f"explain one ear: its side of the patient{both}")
    add_set_flags(parser, choices=SETS, does="explain", default=None)
    cli.add_flag(parser, "--top-k", "--top", type=cli.int_at_least(1), default=5, metavar="K",
                 help="slices to show (default: %(default)s)")
    parser.add_argument("--target", default="predicted", help="name of the class to explain (default: the predicted class)")
    parser.add_argument("--method", default="integrated,hirescam", metavar="NAME,NAME",
                        help="methods, the main one first (default: %(default)s)")
    parser.add_argument("--layer", help="stage of the network for class activation maps (default: the last; hirescam and "
                        "layercam: the one of stride 4)")
    parser.add_argument("--out-dir", type=Path, metavar="DIR", help="output folder (default: see above)")
    args = parser.parse_args(argv)
    if kind == EAR2D and args.exam_id and not args.side:
        raise UserError("--exam-id: needs --side left or --side right")
    if args.all and args.side:
        raise UserError("--all: takes both sides; leave --side away")
    if args.exam_id and args.split:
        raise UserError("--split: is for --all; an exam is found whatever its set")
    return args


def _explain_set(network: "TrainedNetwork", data: DataConfig, set_name: str, request: "ExplanationRequest",
                 out_dir: Path | None) -> int:
    from medical_fenlei.explanations.explain import explain_set
    from medical_fenlei.run_report.page import write_page

    explained = explain_set(network, data, set_name, request, out_dir)
    for own in explained.tasks:
        cli.say(f"{own.task.name}, {set_name}: {own.ears} ears: {own.done.made} explained, {own.done.kept} were there, "
                f"{len(own.done.rejects)} could not be")
        cli.say(f"wrote {own.csv}; look into {own.csv.with_suffix('')}")
    if out_dir is None:
        cli.say(f"the page has them: {write_page(network.run)}")
    return cli.report_rejects(explained.rejects, explained.csv)


def _explain_exam(network: "TrainedNetwork", data: DataConfig, exam_id: str, folders: dict[Side, Path],
                  request: "ExplanationRequest") -> int:
    from medical_fenlei.explanations.explain import explain_exam

    explained = explain_exam(network, data, exam_id, folders, request)
    for written in explained.written:
        ear, found = written.ear, written.ear.explanation
        label = f"labelled {ear.label_code} ({DIAGNOSES[ear.label_code].english})" if ear.label_code else "without a label"
        cli.say(f"{exam_id} {ear.side}, {label}: {found.class_name} with probability {found.probability:.3f}; "
                f"slices {', '.join(map(str, found.slices))} by {found.ranked_by}")
        cli.say(f"wrote {len(written.files)} files to {written.folder}; look at {written.folder / 'overview.png'}")
    if explained.rejects.empty:
        return cli.OK
    return cli.report_rejects(explained.rejects, explained.written[0].folder.parent / f"{exam_id}.csv")

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
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli
from medical_fenlei.errors import UserError
from medical_fenlei.experiments.route import add_checkpoint_flags, open_checkpoint
from medical_fenlei.tables import SETS
from medical_fenlei.training.config import EAR2D
from medical_fenlei.vocabulary import SIDES, Side

if TYPE_CHECKING:
    from medical_fenlei.analysis.trained import Trained
    from medical_fenlei.training.config import DataConfig


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
    args.method = tuple(args.method.split(","))
    trained, data = open_checkpoint(args, kind=EAR2D)
    return of_all(args, trained, data) if args.all else of_one(args, trained, data)


def of_one(args: argparse.Namespace, trained: "Trained", data: "DataConfig") -> int:
    import numpy as np

    from medical_fenlei import tables
    from medical_fenlei.analysis.calibration import Calibration
    from medical_fenlei.analysis.gradcam import explain
    from medical_fenlei.data.sources import prepare_missing
    from medical_fenlei.report.explanations import write_explanation
    from medical_fenlei.vocabulary import DIAGNOSES

    side = Side(args.side)
    tasks = trained.chosen(data)
    manifest = tables.MANIFEST.read(data.manifest_csv)
    ear = manifest[(manifest.exam_id == args.exam_id) & (manifest.side == str(side))]
    if ear.empty:
        raise UserError(f"--exam-id {args.exam_id}: {data.manifest_csv} has no {side} ear of that exam")
    store = trained.store(data)
    rejects = prepare_missing(data, store, ear)
    if len(rejects):
        raise UserError(f"--exam-id {args.exam_id}: {rejects.reason.iloc[0]}: {rejects.detail.iloc[0]}")
    volume, affine = np.array(store.read(args.exam_id, side)), np.array(store.read_facts(args.exam_id, side)["affine_lps"])
    explained = [explain(trained, volume, affine, task, target=args.target, methods=args.method, top=args.top, layer=args.layer)
                 for task in tasks]
    if calibration := Calibration.of(args.checkpoint):
        explained = [calibration.tasks[task.name].explained(found) if task.name in calibration.tasks else found
                     for task, found in zip(tasks, explained, strict=True)]
    code = int(ear.label_code.iloc[0])
    label = f"labelled {code} ({DIAGNOSES[code].english})" if code else "without a label"
    out = args.out_dir or trained.run.reports / "gradcam" / f"{args.exam_id}_{side}"
    for task, found in zip(tasks, explained, strict=True):
        folder = out / task.name if len(trained.tasks) > 1 else out
        written = write_explanation(found, folder, exam_id=args.exam_id, side=side, affine=affine, label_code=code,
                                    facts={"task": task.name})
        cli.say(f"{args.exam_id} {side}, {label}: {found.class_name} with probability {found.probability:.3f}; "
                f"slices {', '.join(map(str, found.slices))} by {found.ranked_by}")
        cli.say(f"wrote {len(written)} files to {folder}; look at {folder / 'overview.png'}")
    return cli.OK


def of_all(args: argparse.Namespace, trained: "Trained", data: "DataConfig") -> int:
    import pandas as pd

    from medical_fenlei import tables
    from medical_fenlei.analysis.calibration import Calibration
    from medical_fenlei.analysis.evaluate import set_label
    from medical_fenlei.analysis.gradcam import check_request
    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.report.explanations import explain_ears
    from medical_fenlei.report.page import write_page
    from medical_fenlei.tasks import OUTSIDE, named_apart

    split, tasks, store = args.split or "val", trained.chosen(data), trained.store(data)
    for task in tasks:                                           # before anything is written
        check_request(trained, task, methods=args.method, target=args.target, layer=args.layer)
    sources = find_ears(data, store, tasks, (split,))
    if split not in sources.ears or sources.ears[split].empty:
        raise UserError(f"--split {split}: {data.splits_root} --pct {data.pct} has no ears there for "
                        + ", ".join(task.name for task in tasks))
    ears, rejects, reports = sources.ears[split], [sources.rejects], args.out_dir or trained.run.reports
    name, calibration = f"explanations_{set_label(split, data)}", Calibration.of(args.checkpoint)
    for task in tasks:
        own, label = ears[task.targets(ears.label_code.to_numpy()) != OUTSIDE], named_apart(name, task, trained.tasks)
        done = explain_ears(trained, store, own, task, reports / label, methods=args.method, top=args.top, target=args.target,
                            layer=args.layer, label=task.name, fitted=calibration.tasks.get(task.name) if calibration else None)
        tables.EXPLANATIONS.write(reports / f"{label}.csv", done.table)
        rejects.append(done.rejects)
        cli.say(f"{task.name}, {split}: {len(own)} ears: {done.made} explained, {done.kept} were there, "
                f"{len(done.rejects)} could not be")
        cli.say(f"wrote {reports / f'{label}.csv'}; look into {reports / label}")
    if args.out_dir is None:
        cli.say(f"the page has them: {write_page(trained.run)}")
    return cli.report_rejects(tables.REJECTS.frame(pd.concat(rejects, ignore_index=True)), reports / f"{name}.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

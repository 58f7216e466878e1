"""What a trained ear network looked at in one ear: the slices it attended to most, each with its class activation map.

    python scripts/gradcam_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --exam-id <id> --side left

Writes grey slice, heat map and overlay of each (PNG, in the network's bone window), all of them together (overview.png) and
gradcam.json, with the place of each slice and of each map's peak in the patient, to outputs/<run>/reports/gradcam/<id>_<side>/;
of a network with several tasks to a folder in it for each, <id>_<side>/<task>/. Works for backbones of timm that convolve and
for those that attend.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.experiments.route import add_checkpoint_flags, open_checkpoint
from medical_fenlei.training.config import EAR2D
from medical_fenlei.vocabulary import SIDES, Side


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("splits_root", "pct", "limit", "data_on", "read_workers"))
    parser.add_argument("--exam-id", required=True, help="the exam")
    parser.add_argument("--side", choices=SIDES, required=True, help="of the patient")
    parser.add_argument("--top", type=int, default=5, help="slices to show (default: 5)")
    parser.add_argument("--target", default="predicted", help="the class to explain, by its name (default: the predicted one)")
    parser.add_argument("--method", default="gradcam", help="gradcam (default), gradcam++, hirescam, layercam or xgradcam")
    parser.add_argument("--out-dir", type=Path, help="default: outputs/<run>/reports/gradcam/<id>_<side>")
    args = parser.parse_args(argv)

    import numpy as np

    from medical_fenlei import tables
    from medical_fenlei.analysis.gradcam import explain
    from medical_fenlei.data.sources import prepare_missing
    from medical_fenlei.errors import UserError
    from medical_fenlei.report.explanations import write_explanation
    from medical_fenlei.vocabulary import DIAGNOSES

    if args.top < 1:
        raise UserError(f"--top: got {args.top}, expected at least 1")
    side = Side(args.side)
    trained, data = open_checkpoint(args, kind=EAR2D)
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
    explained = [explain(trained, volume, task, target=args.target, method=args.method, top=args.top) for task in tasks]
    code = int(ear.label_code.iloc[0])
    label = f"labelled {code} ({DIAGNOSES[code].english})" if code else "without a label"
    out = args.out_dir or trained.run.reports / "gradcam" / f"{args.exam_id}_{side}"
    for task, found in zip(tasks, explained, strict=True):
        folder = out / task.name if len(trained.tasks) > 1 else out
        written = write_explanation(found, folder, exam_id=args.exam_id, side=side, affine=affine,
                                    facts={"method": args.method, "task": task.name, "label_code": code or None})
        cli.say(f"{args.exam_id} {side}, {label}: {found.class_name} with probability {found.probability:.3f}; "
                f"slices {', '.join(map(str, found.slices))} by {found.ranked_by}")
        cli.say(f"wrote {len(written)} files to {folder}; look at {folder / 'overview.png'}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

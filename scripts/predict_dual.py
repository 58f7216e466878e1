"""Both diagnoses of every exam of an index, with or without labels.

    python scripts/predict_dual.py --checkpoint outputs/<run>/checkpoints/best.pt \\
        --index-csv artifacts/splits_dual/100pct/val.csv --out-csv artifacts/predictions_dual.csv

The index needs `exam_id` and `series_relpath`; with `left_code` and `right_code` the figures are shown too. One row an exam;
for each side the label if it is known, the predicted class with its name, and the probability of every class. A network with
several tasks gives a table a task, predictions_dual_<task>.csv. Halves that the cache lacks are prepared first.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import DUAL


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("splits_root", "pct", "limit"))
    cli.add(parser, "index_csv", "limit", "draws")
    parser.add_argument("--out-csv", type=Path, default=Path("artifacts/predictions_dual.csv"), help="one row an exam")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.data.dataset import EarDataset, group_by_exam
    from medical_fenlei.data.exams import ears_of
    from medical_fenlei.data.sources import prepare_missing
    from medical_fenlei.data.storage import Placement
    from medical_fenlei.ears.build import missing_ears
    from medical_fenlei.errors import UserError
    from medical_fenlei.evaluation.by_exam import side_by_side
    from medical_fenlei.evaluation.evaluate import table_of
    from medical_fenlei.metrics.predictions import intervals_of
    from medical_fenlei.tasks import named_apart

    trained, data = open_checkpoint(args, kind=DUAL)
    tasks = trained.chosen(data)
    exams = tables.EXAMS.read(args.index_csv)[: args.limit]
    manifest = tables.MANIFEST.read(data.manifest_csv) if data.manifest_csv.is_file() else tables.MANIFEST.empty()
    ears = ears_of(exams, dict(zip(manifest.exam_id, manifest.patient_key, strict=True)))
    store = trained.store(data)
    rejects = prepare_missing(data, store, ears)
    ears = ears.drop(missing_ears(store, ears).index)
    if ears.empty:
        raise UserError(f"--index-csv {args.index_csv}: no ear of its {len(exams)} exams could be prepared")
    placement = Placement.choose(data, store, trained.arithmetic.device, ears=len(ears))
    predictions = trained.predict(EarDataset(store, ears, group_by_exam(ears), placement), batch_size=args.batch_size)
    for task in tasks:
        found, out = predictions[task.name], args.out_csv.with_stem(named_apart(args.out_csv.stem, task, trained.tasks))
        tables.DUAL_PREDICTIONS.write(out, side_by_side(exams, found, task))
        called = [f"{(found.y_pred == c).sum()} {name}" for c, name in enumerate(task.class_names)]
        cli.say(f"{task.name}: {len(exams)} exams, {len(found)} ears, predicted {', '.join(called)}")
        if (found.y_true >= 0).any():
            intervals = intervals_of(found, task, draws=args.draws)
            cli.show(table_of(intervals))
            for text in intervals.warnings:
                cli.warn(text)
        cli.say(f"wrote {out}")
    return cli.report_rejects(rejects, args.out_csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

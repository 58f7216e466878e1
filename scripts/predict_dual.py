"""Predict both ears of every exam of an index, with or without labels.

    python scripts/predict_dual.py --checkpoint outputs/<run>/checkpoints/best.pt \\
        --index-csv artifacts/splits_dual/100pct/val.csv --out-csv artifacts/predictions_dual.csv

The index needs `exam_id` and `series_relpath`; with `left_code` and `right_code`, metrics are printed too. Writes one row per
exam: for each side the label if known, the predicted class with its name, and the probability of every class. A network with
several tasks gives one table per task, predictions_dual_<task>.csv. Halves missing from the cache are prepared first. What
calibrate_dual fitted is applied. eval_dual writes the metrics of a set, with the page of the run.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import DUAL


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("splits_root", "pct", "limit"))
    parser.add_argument("--uncalibrated", action="store_true", help="do not apply what calibrate_dual fitted")
    cli.add_shared_flags(parser, "index_csv", "limit", "resamples", out_csv=Path("artifacts/predictions_dual.csv"))
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError

    exams = tables.EXAMS.read(args.index_csv)[: args.limit]
    network, data = open_checkpoint(args, kind=DUAL)

    from medical_fenlei.data.sources import ears_of_exams
    from medical_fenlei.evaluation.by_exam import side_by_side
    from medical_fenlei.metrics.interval_table import interval_table
    from medical_fenlei.metrics.predictions import intervals_of
    from medical_fenlei.tasks import with_task_name
    from medical_fenlei.vocabulary import UNLABELLED

    tasks = network.select_tasks(data)
    manifest = tables.MANIFEST.read(data.manifest_csv) if data.manifest_csv.is_file() else tables.MANIFEST.empty()
    ears = network.open_ears(data, ears_of_exams(exams, manifest), "index")
    if ears.ears.empty:
        raise UserError(f"--index-csv {args.index_csv}: no ear of its {len(exams)} exams could be prepared")
    calibrations = network.calibrations(tasks, calibrated=not args.uncalibrated)
    if (ears.ears.label_code != UNLABELLED).any() and network.calibration and not args.uncalibrated:
        network.calibration.refuse_if_fitted_on(ears.ears)
    predictions = network.predict(ears.dataset, batch_size=args.batch_size)
    for task in tasks:
        found = ears.with_images(calibrations[task.name].apply(predictions[task.name], task))
        out = args.out_csv.with_stem(with_task_name(args.out_csv.stem, task, network.tasks))
        tables.DUAL_PREDICTIONS.write(out, side_by_side(exams, found, task))
        counts = [f"{(found.y_pred == c).sum()} {name}" for c, name in enumerate(task.class_names)]
        cli.say(f"{task.name}: {len(exams)} exams, {len(found)} ears, predicted {', '.join(counts)}")
        if (found.y_true >= 0).any():
            intervals = intervals_of(found, task, n_resamples=args.resamples)
            cli.show(interval_table(intervals))
            for text in intervals.warnings:
                cli.warn(text)
        cli.say(f"wrote {out}")
    return cli.report_rejects(ears.rejects, args.out_csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

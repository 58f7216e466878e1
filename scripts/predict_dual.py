"""Predict both ears of every exam of an index, with or without labels.

    python scripts/predict_dual.py --checkpoint outputs/<run>/checkpoints/best.pt \\
        --index-csv artifacts/splits_dual/100pct/val.csv --out-csv artifacts/predictions_dual.csv

The index needs `exam_id` and `series_relpath`; with `left_code` and `right_code`, metrics are printed too. Writes one row per
exam: for each side the label if known, the predicted class with its name, and the probability of every class. A network with
several tasks gives one table per task, predictions_dual_<task>.csv. Halves missing from the cache are prepared first. What
calibrate_dual fitted is applied. Exams of another hospital: name their --dicom-base and --manifest-csv; without a manifest each
exam counts as a patient of its own, and halves of another --dicom-base are cached apart from the run's. eval_dual writes the
metrics of a set, with the page of the run.
"""
import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import DUAL, DataConfig
from medical_fenlei.vocabulary import plural

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.trained.network import TrainedNetwork


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("splits_root", "pct", "limit"))
    parser.add_argument("--uncalibrated", action="store_true", help="do not apply what calibrate_dual fitted")
    cli.add_shared_flags(parser, "index_csv", "limit", "resamples", out_csv=Path("artifacts/predictions_dual.csv"))
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError

    exams = tables.EXAMS.read(args.index_csv)[: args.limit]
    network, data = open_checkpoint(args, kind=DUAL, job="predict")

    from medical_fenlei.data.sources import describe_exams_without_rows, ears_of_exams
    from medical_fenlei.evaluation.by_exam import side_by_side
    from medical_fenlei.metrics.interval_table import interval_table
    from medical_fenlei.metrics.predictions import intervals_of
    from medical_fenlei.tasks import with_task_name
    from medical_fenlei.vocabulary import UNLABELLED

    tasks = network.select_tasks(data)
    manifest = tables.MANIFEST.read(data.manifest_csv) if data.manifest_csv.is_file() else tables.MANIFEST.empty()
    wanted = ears_of_exams(exams, manifest)
    apart = describe_exams_without_rows(wanted, data.manifest_csv)
    ears = network.open_ears(_with_cache_apart(network, data, exams, args), wanted, "index")
    if ears.ears.empty:
        raise UserError(f"--index-csv {args.index_csv}: no ear of its {len(exams)} exams could be prepared")
    labelled = (ears.ears.label_code != UNLABELLED).any()
    if apart and not labelled:
        cli.warn(apart)
    calibrations = network.calibrations(tasks, calibrated=not args.uncalibrated)
    if labelled and network.calibration and not args.uncalibrated:
        network.calibration.refuse_if_fitted_on(ears.ears)
    predictions = network.predict(ears.dataset, batch_size=args.batch_size)
    for task in tasks:
        found = ears.with_images(calibrations[task.name].apply(predictions[task.name], task))
        out = args.out_csv.with_stem(with_task_name(args.out_csv.stem, task, network.tasks))
        tables.DUAL_PREDICTIONS.write(out, side_by_side(exams, found, task))
        counts = [f"{(found.y_pred == c).sum()} {name}" for c, name in enumerate(task.class_names)]
        cli.say(f"{task.name}: {plural(len(exams), 'exam')}, {plural(len(found), 'ear')}, predicted {', '.join(counts)}")
        if (found.y_true >= 0).any():
            intervals = intervals_of(found, task, n_resamples=args.resamples)
            cli.show(interval_table(intervals))
            for text in filter(None, (*intervals.warnings, apart)):
                cli.warn(text)
        cli.say(f"wrote {out}")
    return cli.report_rejects(ears.rejects, args.out_csv)


def _with_cache_apart(network: "TrainedNetwork", data: DataConfig, exams: "pd.DataFrame", args: argparse.Namespace
                      ) -> DataConfig:
    """Return the data settings, with a cache apart from the run's for exams of another hospital, which may use the same ids.

    Exams are of another hospital if --dicom-base is not the run's, and the manifest is another or lacks some of them.
    """
    from medical_fenlei import tables
    from medical_fenlei.external_cohort import cache_apart

    own = network.config.data
    known = tables.MANIFEST.read(own.manifest_csv).exam_id if own.manifest_csv.is_file() else ()
    same_manifest = data.manifest_csv.resolve() == own.manifest_csv.resolve()
    if ("cache_dir" in settings.given(args, DataConfig) or data.dicom_base.resolve() == own.dicom_base.resolve()
            or (same_manifest and exams.exam_id.isin(known).all())):
        return data
    data = replace(data, cache_dir=cache_apart(network.run.reports, dicom_base=data.dicom_base, own_cache=own.cache_dir))
    cli.say(f"ears of --dicom-base {data.dicom_base} are kept apart from those of the run, in {data.cache_dir}; --cache-dir "
            "names another folder")
    return data


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

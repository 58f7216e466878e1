"""Does any patient, any exam, any scan stand on both sides of a split?

    python scripts/check_patient_leakage.py --manifest-csv artifacts/manifest_ears.csv

Lists the patients with several exams and looks at every split under artifacts/splits_dual*, or at those that --splits-root
names. Looks too for one exam in two sets, for exams that are one study, and for the same pixels under several exam ids: in the
caches of --cache-dir (their indices hold hashes: nothing is decoded), and with --pixels in the middle slices of every series.
--run looks at what one finished run used. Exact copies are found, not the same scan reconstructed anew.

Leaves with status 1 and a table of offenders if a split by patient parts what belongs together, any split an exam, or if the
same scan goes under different patients, unless it lies within one set. What else parts or repeats is only warned about.
"""
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.tables import Split


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "manifest_csv")
    parser.add_argument("--splits-root", type=Path, nargs="*", help="holds 1pct/ 20pct/ 100pct/ (default: all there are)")
    cli.add(parser, "cache_dir", "dicom_base", "num_workers")
    parser.add_argument("--pixels", action="store_true", help="decode the middle slices of every series in --dicom-base")
    parser.add_argument("--run", type=Path, help="outputs/<run>: its manifest, split and cache, in place of those flags")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.ingest.leakage import exams_per_patient, shared_exams, shared_marks, shared_patients

    manifest_csv, splits, caches = _of_run(args.run) if args.run else _of_flags(args)
    if args.pixels and not args.dicom_base.is_dir():
        raise UserError(f"--dicom-base {args.dicom_base}: no such folder; --pixels decodes what lies there")
    manifest = tables.MANIFEST.read(manifest_csv)
    several = exams_per_patient(manifest)
    cli.say(f"{manifest.patient_key.nunique()} patients, {len(several)} with several exams")
    if len(several):
        cli.show(several)
    cli.say(f"splits checked: {', '.join(str(split.folder) for split in splits) or 'none yet'}")
    parted = {exam for split in splits for frame in split.sets.values() for exam in frame.exam_id}
    if parted and parted.isdisjoint(manifest.exam_id):
        raise UserError(f"--manifest-csv {manifest_csv}: knows none of the exams of these splits: it is of another index")
    if strangers := sorted(parted - set(manifest.exam_id)):
        cli.warn(f"{len(strangers)} exams of these splits are not in {manifest_csv}: who their patients are is not known; "
                 f"{', '.join(strangers[:5])}{', …' if len(strangers) > 5 else ''}")
    marks, rejects = _marks(manifest, caches, args)

    patients, exams, same = shared_patients(manifest, splits), shared_exams(splits), shared_marks(marks, manifest, splits)
    by_exam = patients[~patients.by_patient.astype(bool)]
    if len(by_exam):
        cli.warn(f"{by_exam.patient_key.nunique()} patients stand in several sets of splits made without --patient-split: "
                 + ", ".join(by_exam.split.unique()))
    if len(harmless := same[~same.leak]):
        cli.warn(f"{harmless.exam_ids.nunique()} groups of exams hold the same, within one patient or set:")
        cli.show(harmless.drop(columns="leak"))
    offenders = [
        (patients[patients.by_patient.astype(bool)], "patient_key", "patients stand in several sets of one split by patient"),
        (exams, "exam_id", "exams stand in several sets of one split"),
        (same[same.leak], "exam_ids", "groups of exams hold the same, parted by a split or under several patients"),
    ]
    for table, unit, words in offenders:
        if len(table):
            cli.say(f"LEAKAGE: {table[unit].nunique()} {words}")
            cli.show(table.drop(columns=["by_patient", "leak"], errors="ignore"))
    status = cli.report_rejects(rejects, manifest_csv.with_name("leakage_pixels.csv")) if args.pixels else cli.OK
    if any(len(table) for table, _, _ in offenders):
        return cli.CHECK_FAILED
    cli.say("no leakage in what was checked" if splits else "nothing parted yet; run it again when there are splits")
    return status


def _of_flags(args: argparse.Namespace) -> tuple[Path, list["Split"], list[Path]]:
    """Manifest, splits and caches that the flags name."""
    from medical_fenlei import tables
    from medical_fenlei.analysis.same_pixels import caches
    from medical_fenlei.errors import UserError

    roots = args.splits_root or sorted(Path("artifacts").glob("splits_dual*"))
    splits = [split for root in roots for split in tables.read_splits(root)]
    if args.splits_root and not splits:
        raise UserError(f"--splits-root {' '.join(map(str, roots))}: holds no <pct>pct/train.csv")
    return args.manifest_csv, splits, caches(args.cache_dir)


def _of_run(folder: Path) -> tuple[Path, list["Split"], list[Path]]:
    """Those of a run; warns of files that are no longer what it read."""
    from medical_fenlei import settings, tables
    from medical_fenlei.files import sha256
    from medical_fenlei.runs import Run
    from medical_fenlei.training.config import RunConfig

    run = Run(folder)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    split = tables.read_split(config.data.splits_root, config.data.pct)
    for name, path in {"manifest": config.data.manifest_csv, **{s: split.folder / f"{s}.csv" for s in split.sets}}.items():
        if path.is_file() and run.read_hashes().get(name) != sha256(path):
            cli.warn(f"{path}: has changed since the run read it")
    return config.data.manifest_csv, [split], [config.data.cache_dir / config.ears.key]


def _marks(manifest: "pd.DataFrame", caches: list[Path], args: argparse.Namespace) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """By what exams are known to be the same, and `tables.REJECTS`; says what was looked at and what was not."""
    import pandas as pd

    from medical_fenlei import tables
    from medical_fenlei.analysis.same_pixels import cached_marks, decoded_marks
    from medical_fenlei.ingest.leakage import study_marks

    exams = set(manifest.exam_id)
    marks, rejects = [study_marks(manifest)], tables.REJECTS.empty()
    cli.say(f"studies checked: {len(marks[0])} of {len(exams)} exams"
            + ("" if len(marks[0]) else "; a manifest of an earlier version does not know them, build it again"))
    for cache in caches:
        marks.append(cached_marks(cache))
        cli.say(f"cached pixels checked: {len(exams & set(marks[-1].exam_id))} of {len(exams)} exams, {cache}")
    if not caches:
        cli.say(f"cached pixels not checked: no cache in {args.cache_dir}")
    if args.pixels:
        series = manifest[manifest.series_relpath != ""].drop_duplicates(["exam_id", "series_relpath"])
        found, rejects = decoded_marks(series, dicom_base=args.dicom_base, workers=args.num_workers)
        cli.say(f"decoded pixels checked: {found.exam_id.nunique()} of {len(exams)} exams")
        marks.append(found)
    else:
        cli.say("decoded pixels not checked: --pixels does")
    return pd.concat(marks, ignore_index=True), rejects


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

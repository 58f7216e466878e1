"""Does any patient, any exam, any scan stand on both sides of a split?

    python scripts/check_patient_leakage.py --manifest-csv artifacts/manifest_ears.csv

Lists the patients with several exams and looks at every split under artifacts/splits_dual*, or at those that --splits-root
names. Looks too for one exam in two sets, for exams that are one study, and for the same pixels under several exam ids: in the
caches of --cache-dir (their indices hold hashes: nothing is decoded), and with --pixels in the middle slices of every series.
--run looks at what one finished run used. Exact copies are found, not the same scan reconstructed anew.

Leaves with status 1 and a table of offenders if a split by patient parts what belongs together, any split an exam, or if the
same scan goes under different patients, unless it lies within one set. What else parts or repeats is only warned about.
"""
from pathlib import Path

from medical_fenlei import cli


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
    from medical_fenlei.leakage.checked import Places, known_marks
    from medical_fenlei.leakage.shared import exams_per_patient, shared_exams, shared_marks, shared_patients

    there = Places.of_run(args.run) if args.run else Places.named(args.manifest_csv, args.splits_root, args.cache_dir)
    manifest_csv, splits = there.manifest_csv, there.splits
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
    marks, rejects = known_marks(manifest, there, dicom_base=args.dicom_base if args.pixels else None,
                                 workers=args.num_workers)

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


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

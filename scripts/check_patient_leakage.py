"""Does any patient stand on both sides of a split?

    python scripts/check_patient_leakage.py --manifest-csv artifacts/manifest_ears.csv

Lists the patients with several exams and looks at every split under artifacts/splits_dual*, or at those that --splits-root
names. Leaves with status 1 and a table of offenders if a split by patient has any; one made by exam is only warned about.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "manifest_csv")
    parser.add_argument("--splits-root", type=Path, nargs="*", help="holds 1pct/ 20pct/ 100pct/ (default: all there are)")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.ingest.leakage import exams_per_patient, shared_patients

    manifest = tables.MANIFEST.read(args.manifest_csv)
    several = exams_per_patient(manifest)
    cli.say(f"{manifest.patient_key.nunique()} patients, {len(several)} with several exams")
    if len(several):
        cli.show(several)
    roots = args.splits_root or sorted(Path("artifacts").glob("splits_dual*"))
    splits = [split for root in roots for split in tables.read_splits(root)]
    if args.splits_root and not splits:
        raise UserError(f"--splits-root {' '.join(map(str, roots))}: holds no <pct>pct/train.csv")
    cli.say(f"splits checked: {', '.join(str(split.folder) for split in splits) or 'none yet'}")
    leaks = shared_patients(manifest, splits)
    by_exam = leaks[~leaks.by_patient.astype(bool)]
    if len(by_exam):
        cli.warn(f"{by_exam.patient_key.nunique()} patients stand in several sets of splits made without --patient-split: "
                 + ", ".join(by_exam.split.unique()))
    offenders = leaks[leaks.by_patient.astype(bool)]
    if len(offenders):
        cli.say(f"LEAKAGE: {offenders.patient_key.nunique()} patients stand in several sets of one split by patient")
        cli.show(offenders.drop(columns="by_patient"))
        return cli.CHECK_FAILED
    cli.say("no leakage in splits by patient" if splits else "nothing to check yet; run it again when there are splits")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

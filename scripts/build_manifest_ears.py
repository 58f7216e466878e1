"""One row an ear: series, header facts, label, patient, and for every binary task whether and how the ear takes part.

    python scripts/build_manifest_ears.py --index-csv artifacts/dataset_index.csv --out-csv artifacts/manifest_ears.csv

Patients are told apart by a keyed hash; the key is made at first use and stays outside every output. An exam whose images are
of several patients is left out: <stem>_rejects.csv says so, as of every exam that cannot be used.
"""
from pathlib import Path

from medical_fenlei import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "index_csv", "dicom_base", "num_workers", "cluster", "limit")
    parser.add_argument("--out-csv", type=Path, default=Path("artifacts/manifest_ears.csv"),
                        help="one row an ear (default: artifacts/manifest_ears.csv)")
    parser.add_argument("--patient-key-file", type=Path, help="(default: patient.key in the user's configuration folder)")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.files import read_json, write_json
    from medical_fenlei.ingest.manifest import MANY_EXAMS, build_manifest, doubtful_patients
    from medical_fenlei.ingest.patients import default_key_file, read_or_make_key

    index = tables.INDEX.read(args.index_csv)[: args.limit]
    if index.empty:
        raise UserError(f"--index-csv {args.index_csv}: holds no exam; what build_index says at its end tells why")
    if not args.dicom_base.is_dir():
        raise UserError(f"--dicom-base {args.dicom_base}: no such folder")
    key_file = args.patient_key_file or default_key_file()
    key, made = read_or_make_key(key_file)
    if made:
        cli.say(f"made the key of the patient hashes: {key_file} (keep it, and keep it to yourself)")
    manifest, rejects = build_manifest(
        index, base=args.dicom_base, scan_file=tables.scan_path(args.index_csv), key=key, workers=cli.workers(args))
    tables.MANIFEST.write(args.out_csv, manifest)
    counted = {"exams": manifest.exam_id.nunique(), "exams left out": rejects.exam_id.nunique(), "ears": len(manifest),
               "labelled ears": int((manifest.label_code > 0).sum()), "patients": manifest.patient_key.nunique()}
    before = tables.counts_path(args.index_csv)
    write_json(tables.counts_path(args.out_csv), {"index": read_json(before) if before.is_file() else {}, "manifest": counted})
    sources = manifest.drop_duplicates("patient_key").patient_key_source.value_counts()
    known_by = ", ".join(f"{number} by {source}" for source, number in sources.items()) or "none"
    cli.say(f"{len(index)} exams: {manifest.exam_id.nunique()} in the manifest, {rejects.exam_id.nunique()} left out")
    cli.say(f"{counted['ears']} ears, {counted['labelled ears']} labelled")
    cli.say(f"{counted['patients']} patients ({known_by})")
    for exams in doubtful_patients(manifest):
        cli.warn(f"{len(exams)} exams are said to be of one patient, and are of both sexes or more than {MANY_EXAMS}: does "
                 f"their PatientID stand for several people? {', '.join(exams[:5])}{', …' if len(exams) > 5 else ''}")
    cli.say(f"wrote {args.out_csv}")
    return cli.report_rejects(rejects, args.out_csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

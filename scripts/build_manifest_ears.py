"""List the ears: one row each, with series, header facts, label, patient, and its class in every binary task.

    python scripts/build_manifest_ears.py --index-csv artifacts/dataset_index.csv --out-csv artifacts/manifest_ears.csv

Patients are identified by a keyed hash. The key is created at first use and is never written to an output. Exams of one patient
are linked by PatientID, or by name and birth date, however these are written; <stem>_linked_patients.csv lists them. An exam
with images of several patients is left out; <stem>_rejects.csv lists it, like every exam that cannot be used.
"""
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.vocabulary import plural


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "index_csv", "dicom_base", "num_workers", "cluster", "limit",
                         out_csv=Path("artifacts/manifest_ears.csv"))
    parser.add_argument("--patient-key-file", type=Path, metavar="FILE",
                        help="key of the patient hashes (default: patient.key in the user's configuration folder)")
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.exclusive import only_writer
    from medical_fenlei.files import write_json
    from medical_fenlei.ingest.manifest import (
        MANY_EXAMS,
        build_manifest,
        check_index_and_tree,
        count_manifest,
        doubtful_patients,
    )
    from medical_fenlei.ingest.patients import default_key_file, read_or_make_key
    from medical_fenlei.near_names import check_folder

    index = tables.INDEX.read(args.index_csv)[: args.limit]
    if index.empty:
        raise UserError(f"--index-csv {args.index_csv}: holds no exam; the last lines of build_index say why")
    check_folder("--dicom-base", args.dicom_base)
    check_index_and_tree(index, index_csv=args.index_csv, dicom_base=args.dicom_base)
    key_file = args.patient_key_file or default_key_file()
    key, made = read_or_make_key(key_file)
    if made:
        cli.say(f"made the key of the patient hashes: {key_file} (keep it, and keep it secret)")
    with only_writer("--out-csv", args.out_csv):
        built = build_manifest(
            index, base=args.dicom_base, scan_file=tables.scan_path(args.index_csv), key=key, workers=cli.workers(args))
        built.refuse_if_empty(args.out_csv)
        manifest, rejects = built.table, built.rejects
        tables.MANIFEST.write(args.out_csv, manifest)
        linked_csv = tables.linked_patients_path(args.out_csv)
        tables.LINKED_PATIENTS.write(linked_csv, built.patients.table)
        counts, index_counts = count_manifest(manifest, rejects), tables.counts_path(args.index_csv)
        write_json(tables.counts_path(args.out_csv),
                   {"index": tables.INDEX_COUNTS.read(index_counts) if index_counts.is_file() else {}, "manifest": counts})
        sources = manifest.drop_duplicates("patient_key").patient_key_source.value_counts()
        identified_by = ", ".join(f"{number} by {source}" for source, number in sources.items()) or "none"
        cli.say(f"{plural(len(index), 'exam')}: {counts['exams']} in the manifest, {counts['exams left out']} left out")
        cli.say(f"{plural(counts['ears'], 'ear')}, {counts['labelled ears']} labelled")
        cli.say(f"{plural(counts['patients'], 'patient')} ({identified_by})")
        cli.say(f"{built.patients.count_links()}; see {linked_csv}")
        for warning in built.patients.warnings:
            cli.warn(warning)
        for exams in doubtful_patients(manifest):
            why = f"more than {MANY_EXAMS}" if len(exams) > MANY_EXAMS else "of both sexes"
            cli.warn(f"{len(exams)} exams share one patient, although they are {why}: does their PatientID stand "
                     f"for several people? {', '.join(exams[:5])}{', …' if len(exams) > 5 else ''}")
        cli.say(f"wrote {args.out_csv}")
        return cli.report_rejects(rejects, args.out_csv)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

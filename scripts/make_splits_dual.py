"""Split the labelled exams into train, tune, validation and test sets, each training amount inside the larger ones.

    python scripts/make_splits_dual.py --index-csv artifacts/dataset_index.csv --out-dir artifacts/splits_dual_patient \\
        --manifest-csv artifacts/manifest_ears.csv --patient-split
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_cv --folds 5
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_new --val-from artifacts/splits_dual_patient

Writes <out-dir>/<pct>pct/{train,tune,val,test}.csv and stats.json; with --folds K, <out-dir>/fold_0/<pct>pct/… to fold_<K-1>/,
each a folder for --splits-root. Each patient is kept in one set, as the manifest names the patients; without a manifest, or
with --by-exam, exams are divided, and a patient's exams may be in several sets. If a class has too few ears for
--min-per-class, a warning says so; if the flag was given, nothing is written and the status is 2.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.ingest.split_spec import SplitSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "index_csv", "manifest_csv", out_dir=Path("artifacts/splits_dual"))
    units = parser.add_mutually_exclusive_group()
    units.add_argument("--patient-split", action="store_true",
                       help="keep each patient in one set: the default where there is a manifest, which this flag demands")
    units.add_argument("--by-exam", action="store_true",
                       help="divide exams instead: a patient may be in several sets, and figures are then too good")
    settings.add_flags(parser, SplitSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(SplitSpec, args)
    given = settings.given(args, SplitSpec)
    spec.refuse_unused(given)

    from medical_fenlei.ingest.split_files import manifest_of_patients, read_exams_to_divide, write_splits

    named = args.patient_split or args.manifest_csv != parser.get_default("manifest_csv")
    manifest_csv = None if args.by_exam else manifest_of_patients(args.manifest_csv, required=named)
    divided = read_exams_to_divide(args.index_csv, manifest_csv, spec.val_from)
    written = write_splits(divided, spec, args.out_dir, enforce_minimum="min_per_class" in given)
    cli.say(f"wrote {len(written)} splits to {args.out_dir}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Split the labelled exams into train, tune, validation and test sets, each training amount inside the larger ones.

    python scripts/make_splits_dual.py --index-csv artifacts/dataset_index.csv --out-dir artifacts/splits_dual_patient \\
        --manifest-csv artifacts/manifest_ears.csv --patient-split
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_cv --patient-split --folds 5
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_new --patient-split \\
        --val-from artifacts/splits_dual_patient

Writes <out-dir>/<pct>pct/{train,tune,val,test}.csv and stats.json; with --folds K, <out-dir>/fold_0/<pct>pct/… to fold_<K-1>/,
each a folder for --splits-root. Without --patient-split exams are divided, and a patient's exams may be in several sets. If a
class has too few ears for --min-per-class, a warning says so; if the flag was given, nothing is written and the status is 2.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.ingest.split_spec import SplitSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "index_csv", "manifest_csv", out_dir=Path("artifacts/splits_dual"))
    parser.add_argument("--patient-split", action="store_true", help="keep each patient in one set (needs the manifest)")
    settings.add_flags(parser, SplitSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(SplitSpec, args)
    given = settings.given(args, SplitSpec)
    spec.refuse_unused(given)

    from medical_fenlei.ingest.split_files import read_exams_to_divide, write_splits

    divided = read_exams_to_divide(args.index_csv, args.manifest_csv if args.patient_split else None, spec.val_from)
    written = write_splits(divided, spec, args.out_dir, enforce_minimum="min_per_class" in given)
    cli.say(f"wrote {len(written)} splits to {args.out_dir}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Divide the labelled exams into train, tune, validation and test sets, the smaller training amounts inside the larger.

    python scripts/make_splits_dual.py --index-csv artifacts/dataset_index.csv --out-dir artifacts/splits_dual_patient \\
        --manifest-csv artifacts/manifest_ears.csv --patient-split
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_cv --patient-split --folds 5
    python scripts/make_splits_dual.py --out-dir artifacts/splits_dual_new --patient-split \\
        --val-from artifacts/splits_dual_patient

Writes <out-dir>/<pct>pct/{train,tune,val,test}.csv and stats.json; with --folds K <out-dir>/fold_0/<pct>pct/… to fold_<K-1>/,
each of them a splits folder for --splits-root. Without --patient-split exams are divided, and a patient with two of them may
stand on both sides. Where a class has too few ears for --min-per-class, a warning says so; where the flag was given, nothing is
written, and the status is 2.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.ingest.splits import SplitSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "index_csv", "manifest_csv")
    parser.add_argument("--out-dir", type=Path, default=Path("artifacts/splits_dual"), help="default: artifacts/splits_dual")
    parser.add_argument("--patient-split", action="store_true", help="keep a patient's exams together (needs the manifest)")
    settings.add_flags(parser, SplitSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(SplitSpec, args)
    given = settings.given(args, SplitSpec)

    import pandas as pd

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.files import write_json
    from medical_fenlei.ingest.splits import exams_of, largest_deviation, make_splits, stats, too_few

    if "val_ratio" in given and spec.decided_otherwise:
        raise UserError(f"--val-ratio: contradicts --{'folds' if spec.folds else 'val-from'}; leave one of them out")
    index = tables.INDEX.read(args.index_csv)
    unlabelled = (index.left_code == 0) & (index.right_code == 0)
    usable = index[~unlabelled & (index.series_relpath != "")]
    without = len(index) - int(unlabelled.sum()) - len(usable)
    cli.say(f"{len(index)} exams: {int(unlabelled.sum())} without any label, {without} labelled but without a series, "
            f"{len(usable)} labelled and with a series")
    patients: dict[str, str] | None = None
    if args.patient_split:
        manifest = tables.MANIFEST.read(args.manifest_csv)
        patients = dict(zip(manifest.exam_id, manifest.patient_key, strict=True))
        strangers = usable[~usable.exam_id.isin(list(patients))]
        if len(strangers):
            cli.warn(f"{len(strangers)} exams are left out: {args.manifest_csv} does not know them; "
                     f"{tables.rejects_path(args.manifest_csv).name} may say why, else it is of another index: "
                     f"{', '.join(strangers.exam_id[:5])}{', …' if len(strangers) > 5 else ''}")
            usable = usable.drop(strangers.index)
    if usable.empty:
        raise UserError(f"--index-csv {args.index_csv}: no exam with a label and a series to divide")
    val_exams = set(exams_of(spec.val_from)) if spec.val_from else set()
    if spec.val_from:
        known = val_exams & set(usable.exam_id)
        if not known:
            raise UserError(f"--val-from {spec.val_from}: none of its {len(val_exams)} exams is usable in {args.index_csv}")
        cli.say(f"{len(known)} exams of {spec.val_from} validate, {len(val_exams - known)} more are no longer usable")

    folds = make_splits(usable, patients, spec, val_exams=val_exams)
    roots = [args.out_dir / f"fold_{nth}" if spec.folds else args.out_dir for nth in range(len(folds))]
    lacking = [f"{what} of {root}" for root, splits in zip(roots, folds, strict=True)
               for what in too_few(splits, spec.min_per_class)]
    if lacking:
        said = "; ".join(lacking[:5]) + (f"; and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        if "min_per_class" in given:
            raise UserError(f"--min-per-class {spec.min_per_class}: {said}; ask for fewer ears or fewer sets")
        cli.warn(f"too few ears of a class: {said}")

    kept = {**settings.to_json(spec), **({"val_ratio": None} if spec.decided_otherwise else {})}
    written = set()
    for root, splits in zip(roots, folds, strict=True):
        for pct, sets in splits.items():
            folder = root / f"{pct}pct"
            written.add(folder)
            for name, frame in sets.items():
                if name == "test" and not spec.test_ratio:
                    (folder / "test.csv").unlink(missing_ok=True)
                    continue
                keys = frame.exam_id.map(patients) if patients is not None else ""
                tables.SPLIT.write(folder / f"{name}.csv", frame.assign(patient_key=keys))
            counted, deviation = stats(sets, patients), largest_deviation(sets)
            write_json(folder / "stats.json", {
                "by_patient": args.patient_split, "settings": kept, "sets": counted, "largest_deviation": deviation,
            })
            cli.say(f"{folder}:")
            cli.show(pd.json_normalize([{"set": name, **numbers} for name, numbers in counted.items() if numbers["exams"]]))
            if deviation:
                cli.say("largest deviation of a class's share: {points} percentage points, code {code}, between {sets[0]} and "
                        "{sets[1]}".format(**deviation))
    older = {split.folder for split in tables.read_splits(args.out_dir)} - written
    if older:
        cli.warn(f"of an earlier call, and not of this one: {', '.join(sorted(map(str, older)))}")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

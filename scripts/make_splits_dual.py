"""Divide the labelled exams into train, tune, validation and test sets, the smaller training amounts inside the larger.

    python scripts/make_splits_dual.py --index-csv artifacts/dataset_index.csv --out-dir artifacts/splits_dual_patient \\
        --manifest-csv artifacts/manifest_ears.csv --patient-split

Writes <out-dir>/<pct>pct/{train,tune,val,test}.csv and stats.json. Without --patient-split exams are divided, and a patient
with two of them may stand on both sides.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.ingest.splits import SplitSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "index_csv", "manifest_csv")
    parser.add_argument("--out-dir", type=Path, default=Path("artifacts/splits_dual"), help="the splits folder")
    parser.add_argument("--patient-split", action="store_true", help="keep a patient's exams together (needs the manifest)")
    settings.add_flags(parser, SplitSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(SplitSpec, args)

    import pandas as pd

    from medical_fenlei import tables
    from medical_fenlei.errors import UserError
    from medical_fenlei.files import write_json
    from medical_fenlei.ingest.splits import make_splits, stats

    index = tables.INDEX.read(args.index_csv)
    unlabelled = (index.left_code == 0) & (index.right_code == 0)
    usable = index[~unlabelled & (index.series_relpath != "")]
    cli.say(f"{len(index)} exams, {int(unlabelled.sum())} without any label, {len(usable)} labelled and with a series")
    patients: dict[str, str] | None = None
    if args.patient_split:
        manifest = tables.MANIFEST.read(args.manifest_csv)
        patients = dict(zip(manifest.exam_id, manifest.patient_key, strict=True))
        strangers = usable[~usable.exam_id.isin(list(patients))]
        if len(strangers):
            cli.warn(f"{len(strangers)} exams are left out: {args.manifest_csv} does not know them")
            usable = usable.drop(strangers.index)
    if usable.empty:
        raise UserError(f"--index-csv {args.index_csv}: no exam with a label and a series to divide")

    splits = make_splits(usable, patients, spec)
    for pct, sets in splits.items():
        folder = args.out_dir / f"{pct}pct"
        for name, frame in sets.items():
            if name == "test" and not spec.test_ratio:
                (folder / "test.csv").unlink(missing_ok=True)
                continue
            keys = frame.exam_id.map(patients) if patients is not None else ""
            tables.SPLIT.write(folder / f"{name}.csv", frame.assign(patient_key=keys))
        counted = stats(sets, patients)
        said = {"by_patient": args.patient_split, "settings": settings.to_json(spec), "sets": counted}
        write_json(folder / "stats.json", said)
        cli.say(f"{folder}:")
        cli.show(pd.json_normalize([{"set": name, **numbers} for name, numbers in counted.items() if numbers["exams"]]))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Cut every ear of a split out of its series once, so that no epoch decodes DICOM again.

    python scripts/build_cache_ears.py --splits-root artifacts/splits_dual_patient --pct 100 --num-slices 32 \\
        --image-size 224 --crop-size 192 --sampling even --num-workers 16

Ears that are there are left alone: it can be interrupted, run again, and run in two terminals at once.
"""
from medical_fenlei import cli, settings
from medical_fenlei.ears.spec import EarSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "splits_root", "manifest_csv", "dicom_base", "cache_dir", "num_workers", "limit", pct=100)
    settings.add_flags(parser, EarSpec)
    args = parser.parse_args(argv)
    spec = settings.from_flags(EarSpec, args)

    from medical_fenlei import tables
    from medical_fenlei.ears.build import fill_store, missing_ears
    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.errors import UserError

    split = tables.read_split(args.splits_root, args.pct)
    manifest = tables.MANIFEST.read(args.manifest_csv)
    if not args.dicom_base.is_dir():
        raise UserError(f"--dicom-base {args.dicom_base}: no such folder")
    wanted = manifest[manifest.exam_id.isin({e for frame in split.sets.values() for e in frame.exam_id})][: args.limit]
    store = EarStore(args.cache_dir, spec)
    there = len(wanted) - len(missing_ears(store, wanted))
    rejects = fill_store(store, wanted, dicom_base=args.dicom_base, workers=args.num_workers, label="ears")
    made = len(wanted) - there - len(rejects)
    cli.say(f"{len(wanted)} ears wanted: {there} were there, {made} made, {len(rejects)} rejected")
    cli.say(f"wrote {store.folder / 'index.csv'}")
    return cli.report_rejects(rejects, store.folder / "index.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

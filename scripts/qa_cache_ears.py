"""Show the cached ears, most unusual first: position in the scan, slices, HU, confidence of the localisation.

    python scripts/qa_cache_ears.py --cache-dir cache/ears_hu --manifest-csv artifacts/manifest_ears.csv \\
        --dicom-base data/medical_data_2 --out-dir artifacts/qa_ears

Writes index.html (self-contained; open it in a browser), qa_ears.csv (the score of each ear and its parts), overview.png, and
exams/<id>.png for the --worst exams. Without the DICOM, pictures show the cached volumes only. If --cache-dir contains several
caches, the preprocessing flags choose one. A damaged ear, and one that was cut from another series than the manifest names, is
listed in qa_ears_rejects.csv, with status 3; an ear that is not cached is only counted.
"""
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.config import EarSpec


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "cache_dir", "manifest_csv", "dicom_base", "num_workers", "limit",
                         out_dir=Path("artifacts/qa_ears"))
    parser.add_argument("--worst", type=cli.int_at_least(0), default=60, metavar="N",
                        help="number of exams with a picture, the most unusual first; 0 for all (default: %(default)s)")
    parser.add_argument("--anatomy", action="store_true",
                        help="also ask the anatomy network where each ear is (a second for each)")
    settings.add_flags(parser, EarSpec)
    args = parser.parse_args(argv)

    from medical_fenlei import tables
    from medical_fenlei.cache_qa.outliers import NOT_CACHED, STALE, rank, read_ears
    from medical_fenlei.cache_qa.page import write_ear_qa
    from medical_fenlei.ears.store import choose_store
    from medical_fenlei.errors import UserError
    from medical_fenlei.near_names import near_paths

    spec = settings.from_flags(EarSpec, args) if settings.given(args, EarSpec) else None
    store = choose_store(args.cache_dir, spec)
    manifest = tables.MANIFEST.read(args.manifest_csv)
    wanted = tables.first_exams(manifest, args.limit)
    if not args.dicom_base.is_dir():
        cli.warn(f"--dicom-base {args.dicom_base}: no such folder{near_paths('folder', args.dicom_base)}; pictures show the "
                 "cached volumes only")
    ask = None
    if args.anatomy:
        from medical_fenlei.anatomy.second_opinion import AnatomyCheck  # slow to import

        ask = AnatomyCheck().look
    ears, rejects = read_ears(store, wanted, workers=args.num_workers, ask=ask)
    if not ears:
        stale, damaged = (rejects.reason == STALE).sum(), (~rejects.reason.isin([NOT_CACHED, STALE])).sum()
        raise UserError(f"--cache-dir {store.folder}: of {len(wanted)} ears of {args.manifest_csv} none can be read "
                        f"({damaged} are damaged, {stale} were cut from other series); build it with build_cache_ears")
    done = write_ear_qa(args.out_dir, store, ears, rank(ears), rejects, dicom_base=args.dicom_base, worst=args.worst,
                        workers=args.num_workers)
    missing = int((rejects.reason == NOT_CACHED).sum())
    cli.say(f"{len(wanted)} ears in the manifest: {len(ears)} read, {missing} not cached, {len(rejects) - missing} damaged or "
            "out of date")
    cli.say(f"{done.pictures} exams drawn, {len(done.without_scan)} of them without their scan; the most unusual ears:")
    cli.show(done.ranked.head(3)[["exam_id", "side", "score", "why", "confidence", "padded_share"]].round(3))
    cli.say(f"wrote {args.out_dir}; look at {args.out_dir / 'index.html'}")
    faults = len(done.rejects) - missing
    return cli.report_rejects(done.rejects, args.out_dir / "qa_ears.csv", faults=faults, harmless={NOT_CACHED})


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

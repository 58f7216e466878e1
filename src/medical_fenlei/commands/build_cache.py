"""build_cache_ears and build_cache_dual: fill a cache with the ears of a split."""
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.commands.train import FIXED
from medical_fenlei.config import EarSpec, RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.near_names import check_folder
from medical_fenlei.vocabulary import plural

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.ears.store import EarStore


def build_cache_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """Parse the flags of build_cache_ears or build_cache_dual, fill the cache, and return the exit status."""
    parser = cli.parser(doc)
    cli.add_shared_flags(parser, "splits_root", "manifest_csv", "dicom_base", "num_workers", "cluster", "limit",
                         pct=100, cache_dir=route.data.cache_dir)
    parser.add_argument("--verify", action="store_true", help="read all cached ears first, and make damaged ones again")
    settings.add_flags(parser, EarSpec, base=route.ears, leave_out=FIXED[route.kind])
    args = parser.parse_args(argv)
    spec = settings.from_flags(EarSpec, args, base=route.ears)

    from medical_fenlei import tables
    from medical_fenlei.ears.build import fill_store, verify_store
    from medical_fenlei.ears.crop_extent import describe_crops
    from medical_fenlei.ears.source import USABLE, entry_states, warn_unproven
    from medical_fenlei.ears.store import EarStore

    split = tables.read_split(args.splits_root, args.pct)
    manifest = tables.MANIFEST.read(args.manifest_csv)
    check_folder("--dicom-base", args.dicom_base)
    exams = {exam for frame in split.sets.values() for exam in frame.exam_id}
    if unknown := sorted(exams - set(manifest.exam_id)):
        lacks = f"--manifest-csv {args.manifest_csv}: lacks {len(unknown)} of the {len(exams)} exams of {split.folder}"
        if len(unknown) == len(exams):
            raise UserError(f"{lacks}: it belongs to another index; name the one that the splits were made with")
        cli.warn(f"{lacks}, which are left out: {', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}")
    wanted = tables.first_exams(manifest[manifest.exam_id.isin(exams)], args.limit)
    store = EarStore(args.cache_dir, spec)
    if args.limit is None:
        wanted = _with_stale(store, wanted, manifest)
    if crops := describe_crops(spec, wanted):
        cli.say(crops)
    if args.verify:
        damaged = verify_store(store, wanted, workers=cli.workers(args))
        cli.say(f"verified: {len(damaged)} were damaged and are made again" + (f": {', '.join(damaged)}" if damaged else ""))
    states = entry_states(store, wanted)
    _say_stale(store, wanted[~states.isin([*USABLE, "missing"])])
    warn_unproven(store, wanted, states)
    cached = int(states.isin(USABLE).sum())
    filled = fill_store(store, wanted, dicom_base=args.dicom_base, workers=cli.workers(args), label="ears")
    by_others = len(wanted) - cached - filled.made - len(filled.rejects)
    cli.say(f"{plural(len(wanted), 'ear')} wanted: {cached} were there, {filled.made} made, {len(filled.rejects)} rejected"
            + (f", {by_others} made by other builders meanwhile" if by_others else ""))
    if filled.seconds:
        cli.say("seconds of work: " + ", ".join(f"{spent:.1f} {stage}" for stage, spent in filled.seconds.items()))
    cli.say(f"wrote {store.folder / 'index.csv'}")
    return cli.report_rejects(filled.rejects, store.folder / "index.csv")


def _with_stale(store: "EarStore", wanted: "pd.DataFrame", manifest: "pd.DataFrame") -> "pd.DataFrame":
    """Add to the ears of the split those cached ears of the manifest that are stale: no other command cuts them anew."""
    from medical_fenlei.ears.source import USABLE, entry_states

    states = entry_states(store, manifest)
    return manifest[manifest.index.isin(wanted.index) | ~states.isin([*USABLE, "missing"])]


def _say_stale(store: "EarStore", stale: "pd.DataFrame") -> None:
    """Print how many cached ears are cut anew, and why, with the first as an example."""
    from medical_fenlei.ears.source import describe_stale

    if len(stale):
        first = stale.iloc[0]
        cli.say(f"{len(stale)} cached ears were not cut from the series that the manifest names, and are cut anew: "
                f"{first.exam_id} {first.side}: {describe_stale(store, first.to_dict())}" + (", …" if len(stale) > 1 else ""))

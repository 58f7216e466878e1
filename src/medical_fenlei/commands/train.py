"""train_ear2d and train_dual: start a run, or resume one."""
import argparse
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.config import EarSpec, RunConfig, decisive_settings
from medical_fenlei.errors import BAD_INPUT, UserError
from medical_fenlei.near_names import near_paths
from medical_fenlei.runs import Run

if TYPE_CHECKING:
    from medical_fenlei.training.run import FinishedRun

AUTO = "auto"
"""Value of --resume that looks for the run to resume."""
FIXED = {"ear2d": ("sample", "model", "weights"), "dual": ("sample", "extent", "crop_size", "crop_mm")}
"""Settings that a route fixes, by its kind; they have no flag there."""


def add_run_flags(parser: argparse.ArgumentParser, route: RunConfig, *, leave_out: tuple[str, ...] = ()) -> None:
    """Add a flag for every setting of a run on this route, except those that the route fixes."""
    settings.add_flags(parser, RunConfig, base=route, leave_out=(*FIXED[route.kind], *leave_out))


def train_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """Parse the flags of train_ear2d or train_dual, start or resume the run, and return the exit status."""
    parser = cli.parser(doc)
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: a new one under outputs/)")
    parser.add_argument("--resume", metavar="RUN|auto", help="resume this run (takes no other flag); auto: resume the run in "
                        "--output-dir, or the newest under outputs/ with these settings, or start one")
    add_run_flags(parser, route)
    finished = _train(parser.parse_args(argv), route)
    if not finished.is_first:                                    # one of several processes writes for all
        return cli.OK
    return cli.report_rejects(finished.rejects, finished.run.reports / "train.csv")


def _train(args: argparse.Namespace, route: RunConfig) -> "FinishedRun":
    """Start the run of these flags, or resume the one that --resume selects."""
    if args.resume and args.resume != AUTO:
        if args.output_dir or settings.given(args, RunConfig):
            raise UserError("--resume: a run is resumed with its own settings; leave out the other flags")
        earlier: Path | None = Path(args.resume)
        config = settings.from_json(RunConfig, Run(Path(args.resume)).read_settings(), where=args.resume)
    else:
        config = with_cache(settings.from_flags(RunConfig, args, base=route), named=settings.given(args, EarSpec))
        cli.keep_input_apart(args, dicom_base=config.data.dicom_base)
        earlier = run_like(config, args.output_dir) if args.resume else None
    if earlier is None and args.output_dir:
        Run(args.output_dir).refuse_if_taken()
    check_run(config)

    from medical_fenlei.run_report.page import write_training_report
    from medical_fenlei.training.run import resume_run, start_run  # slow to import

    if earlier is not None:
        return resume_run(earlier, kind=route.kind, report=write_training_report)
    return start_run(config, args.output_dir, report=write_training_report)


def check_run(config: RunConfig) -> None:
    """Check the files that a run with these settings will read, and list its ears. Needs no torch. Raises UserError.

    Of a run over several processes only the first says anything.
    """
    try:
        text = _describe_ears(config)
    except UserError:
        if _is_first_process():
            raise
        raise SystemExit(BAD_INPUT) from None
    if _is_first_process():
        cli.say(text)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"                    # set by torchrun


def _describe_ears(config: RunConfig) -> str:
    from medical_fenlei.data.selection import select_ears
    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.tasks import find_tasks

    for flag, path in (("--weights", config.model.weights), ("--backbone-weights", config.model.backbone_weights)):
        if path is not None and not path.is_file():
            raise UserError(f"{flag} {path}: no such file{near_paths('file', path)}")
    found = select_ears(config.data, find_tasks(config.data.label_task), ("train", "tune"))
    return found.describe(EarStore(config.data.cache_dir, config.ears), config.data)


def run_like(config: RunConfig, folder: Path | None) -> Path | None:
    """Return the run in this folder, or the newest run under outputs/ with these settings; None if there is none.

    Raises UserError if the run in the folder has other settings.
    """
    for candidate in [folder] if folder else sorted(Path("outputs").glob("*"), key=lambda path: path.stat().st_mtime)[::-1]:
        run = Run(candidate)
        if not run.config_json.is_file():
            continue
        try:
            there = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
            same = decisive_settings(there) == decisive_settings(config)
        except UserError:                                        # of another version
            same = False
        if same:
            return candidate
        if folder:
            raise UserError(f"--output-dir {folder}: holds a run with other settings; name another folder")
    return None


def with_cache(config: RunConfig, *, named: Collection[str]) -> RunConfig:
    """Return the settings with the preprocessing of the cache to use.

    named: the options of the preprocessing that the user named. With any, the preprocessing is theirs; without, that of the
    only cache. Raises UserError if there are several caches to choose from, the other settings do not fit the cache, or there
    is none with these options, but one whose options the user may have expected where none was named.
    """
    from medical_fenlei.ears.source import refuse_unnamed
    from medical_fenlei.ears.store import choose_store

    store = choose_store(config.data.cache_dir, config.ears if named else None, default=config.ears)
    if named:
        refuse_unnamed(store, named, config.data)
    try:
        found = replace(config, ears=store.spec)
        found.require_fitting_cache()
        return found
    except ValueError as error:
        raise UserError(f"--cache-dir {store.folder}: {error}") from None

"""The two routes as commands: the same steps, from the preset of either."""
import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_fenlei import cli, settings
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.training.config import EAR_ROUTE, DataConfig, EarSpec, RunConfig

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.analysis.trained import Trained
    from medical_fenlei.runs import Run
    from medical_fenlei.training.device import Arithmetic
    from medical_fenlei.training.distributed import Ranks

AUTO = "auto"
FIXED = {"ear2d": ("sample", "model", "weights"), "dual": ("sample", "extent", "crop_size", "crop_mm")}
"""Settings that a route does not offer as flags."""


def add_run_flags(parser: argparse.ArgumentParser, route: RunConfig, *, leave_out: tuple[str, ...] = ()) -> None:
    """Every setting of a run on this route."""
    settings.add_flags(parser, RunConfig, base=route, leave_out=(*FIXED[route.kind], *leave_out))


def train_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """train_ear2d and train_dual."""
    parser = cli.parser(doc)
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: a new one under outputs/)")
    parser.add_argument("--resume", metavar="RUN|auto", help="go on with this run (no other flag is needed); auto: with that "
                        "of --output-dir, or the newest under outputs/ with these settings, or begin one")
    add_run_flags(parser, route)
    args = parser.parse_args(argv)
    if args.resume and args.resume != AUTO:
        if args.output_dir or settings.given(args, RunConfig):
            raise UserError("--resume: a run goes on with its own settings; leave the other flags away")
        done = resume_run(Path(args.resume), kind=route.kind)
    else:
        config = with_cache(settings.from_flags(RunConfig, args, base=route), named=bool(settings.given(args, EarSpec)))
        before = run_like(config, args.output_dir) if args.resume else None
        done = resume_run(before, kind=route.kind) if before else start_run(config, args.output_dir)
    if not done.first:                                           # of several processes one writes
        return cli.OK
    return cli.report_rejects(done.rejects, done.run.reports / "train.csv")


def run_like(config: RunConfig, folder: Path | None) -> Path | None:
    """The run in this folder, or of all under outputs/ the newest that has these settings; None if there is none.

    Raises UserError if the one in the folder has others.
    """
    from medical_fenlei.runs import Run

    for candidate in [folder] if folder else sorted(Path("outputs").glob("*"), key=lambda path: path.stat().st_mtime)[::-1]:
        run = Run(candidate)
        if not run.config_json.is_file():
            continue
        try:
            same = deciding(settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))) == deciding(config)
        except UserError:                                        # of another version
            same = False
        if same:
            return candidate
        if folder:
            raise UserError(f"--output-dir {folder}: holds a run with other settings; name another folder")
    return None


def deciding(config: RunConfig) -> dict[str, Any]:
    """All settings that decide a run's result, as plain values: not those of the machine, nor what --auto-batch found there."""
    plain = settings.to_json(config)
    for name in ("num_workers", "read_workers", "data_on"):
        del plain["data"][name]
    if config.training.auto_batch:
        del plain["training"]["batch_size"]
    return plain


def build_cache_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """build_cache_ears and build_cache_dual."""
    parser = cli.parser(doc)
    cli.add(parser, "splits_root", "manifest_csv", "dicom_base", "num_workers", "cluster", "limit",
            pct=100, cache_dir=route.data.cache_dir)
    parser.add_argument("--verify", action="store_true", help="read what is there first, and make anew what is damaged")
    settings.add_flags(parser, EarSpec, base=route.ears, leave_out=FIXED[route.kind])
    args = parser.parse_args(argv)
    spec = settings.from_flags(EarSpec, args, base=route.ears)

    import pandas as pd

    from medical_fenlei import tables
    from medical_fenlei.ears.build import fill_store, missing_ears, verify_store
    from medical_fenlei.ears.store import EarStore

    split = tables.read_split(args.splits_root, args.pct)
    manifest = tables.MANIFEST.read(args.manifest_csv)
    if not args.dicom_base.is_dir():
        raise UserError(f"--dicom-base {args.dicom_base}: no such folder")
    exams = pd.Series(sorted({e for frame in split.sets.values() for e in frame.exam_id}))
    if len(strangers := exams[~exams.isin(manifest.exam_id)]):
        what = f"--manifest-csv {args.manifest_csv}: lacks {len(strangers)} of the {len(exams)} exams of {split.folder}"
        if len(strangers) == len(exams):
            raise UserError(f"{what}: it is of another index; name the one that the splits were made with")
        cli.warn(f"{what}, which are left out: {', '.join(strangers[:5])}{', …' if len(strangers) > 5 else ''}")
    wanted = manifest[manifest.exam_id.isin(exams)][: args.limit]
    store = EarStore(args.cache_dir, spec)
    if args.verify:
        damaged = verify_store(store, wanted, workers=cli.workers(args))
        cli.say(f"verified: {len(damaged)} were damaged and are made anew" + (f": {', '.join(damaged)}" if damaged else ""))
    there = len(wanted) - len(missing_ears(store, wanted))
    done = fill_store(store, wanted, dicom_base=args.dicom_base, workers=cli.workers(args), label="ears")
    others = len(wanted) - there - done.made - len(done.rejects)
    cli.say(f"{len(wanted)} ears wanted: {there} were there, {done.made} made, {len(done.rejects)} rejected"
            + (f", {others} made by other builders meanwhile" if others else ""))
    if done.seconds:
        cli.say("seconds of work: " + ", ".join(f"{spent:.1f} {stage}" for stage, spent in done.seconds.items()))
    cli.say(f"wrote {store.folder / 'index.csv'}")
    return cli.report_rejects(done.rejects, store.folder / "index.csv")


def add_checkpoint_flags(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """What every command on a trained network takes: the checkpoint, and what to put in place of its run's data settings."""
    cli.add(parser, "checkpoint", "device")
    parser.add_argument("--batch-size", type=int, help="samples a step (default: the run's)")
    if "label_task" not in leave_out:
        parser.add_argument("--label-task", metavar="NAME,NAME", default=argparse.SUPPRESS,
                            help="which of the network's tasks, by name or Chinese alias (default: all)")
    settings.add_flags(parser, DataConfig, default="the run's", leave_out=("label_task", "sample", *leave_out))


def open_checkpoint(args: argparse.Namespace, *, kind: str) -> tuple["Trained", DataConfig]:
    """The network, and the run's data settings with what the user named in their place. Raises UserError."""
    from medical_fenlei.analysis.trained import open_trained

    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size: got {args.batch_size}, expected at least 1")
    trained = open_trained(args.checkpoint, kind=kind, device=args.device)
    return trained, settings.from_flags(DataConfig, args, base=trained.config.data)


@dataclass(frozen=True)
class Done:
    """A run that came to its end."""

    run: "Run"
    rejects: "pd.DataFrame"
    """`tables.REJECTS`."""

    first: bool
    """Whether this process is the run's first or only one."""


def with_cache(config: RunConfig, *, named: bool) -> RunConfig:
    """The settings with the preprocessing that they name, or that of the only cache there is. Raises UserError."""
    from medical_fenlei.ears.store import choose_store

    store = choose_store(config.data.cache_dir, config.ears if named else None, default=config.ears)
    try:
        return replace(config, ears=store.spec)
    except ValueError as error:
        raise UserError(f"--cache-dir {store.folder}: {error}") from None


def start_run(config: RunConfig, output_dir: Path | None) -> Done:
    """Train a new run.

    Raises UserError, and leaves no folder, if it cannot begin; Stopped if a signal ended it and it was saved.
    """
    from medical_fenlei.runs import Run
    from medical_fenlei.tasks import find_tasks

    tasks = find_tasks(config.data.label_task)
    network = config.model.backbone if config.kind == EAR_ROUTE.kind else config.model.model.removeprefix("dual_")
    with _company(config) as (arithmetic, ranks):
        run = ranks.first_alone(lambda: Run.new(output_dir, f"{config.kind}_{'+'.join(task.name for task in tasks)}_{network}"))
        with _ending_well(run, fresh=ranks.first):
            return _train(run, config, arithmetic, ranks, resumed=False)


def resume_run(folder: Path, *, kind: str) -> Done:
    """Go on with a run where it was saved last, with its own settings. Raises UserError if it is none of this kind."""
    from medical_fenlei.runs import Run

    run = Run(folder)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    if config.kind != kind:
        raise UserError(f"--resume {folder}: is a run of kind {config.kind}, expected {kind}")
    with _company(config) as (arithmetic, ranks), _ending_well(run, fresh=False):
        return _train(run, config, arithmetic, ranks, resumed=True)


@contextlib.contextmanager
def _ending_well(run: "Run", *, fresh: bool) -> Iterator[None]:
    """Where it ends early: says how to go on. fresh: takes a beginning without a result back, so that it can begin again."""
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt) as error:
        if fresh:
            run.discard()
        begun = run.config_json.exists()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or run.folder}: {error.strerror or error}; what was saved before is whole: make "
                            "room, then " + (f"--resume {run.folder}" if begun else "run it again")) from None
        if isinstance(error, KeyboardInterrupt) and begun:
            raise Stopped(f"what was saved before is whole; --resume {run.folder} goes on") from None
        raise


@contextlib.contextmanager
def _company(config: RunConfig) -> Iterator[tuple["Arithmetic", "Ranks"]]:
    """Where this process computes, and the others of the run."""
    from medical_fenlei.training.device import Arithmetic
    from medical_fenlei.training.distributed import Ranks

    arithmetic = Arithmetic.choose(config.training.device, config.training.precision)
    with Ranks.joined(arithmetic.device) as ranks:
        yield arithmetic, ranks


def _train(run: "Run", config: RunConfig, arithmetic: "Arithmetic", ranks: "Ranks", *, resumed: bool) -> Done:
    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.models.build import build_model
    from medical_fenlei.report.page import write_page
    from medical_fenlei.report.plots import plot_training
    from medical_fenlei.runs import LOG, versions
    from medical_fenlei.tasks import OUTSIDE, find_tasks
    from medical_fenlei.training.batch_size import largest_batch
    from medical_fenlei.training.device import seed_everything
    from medical_fenlei.training.loop import Trainer

    if ranks.first:
        run.open_log()
    plan, data, tasks = config.training, config.data, find_tasks(config.data.label_task)
    seed_everything(plan.seed, arithmetic.device, deterministic=plan.deterministic, tf32=plan.tf32)
    model = build_model(config.model, shape=config.input_shape, outputs=sum(task.outputs for task in tasks))
    model = model.to(arithmetic.device)
    ranks.follow_first(model)
    if plan.grad_checkpointing:
        model.recompute()                                        # before a batch is sought that fits

    store = EarStore(data.cache_dir, config.ears)
    sources = ranks.first_alone(lambda: find_ears(data, store, tasks, ("train", "tune")))
    placement = sources.placement(store, arithmetic.device, sharers=ranks.local_world)
    train, tune = (sources.dataset(store, name, placement) for name in ("train", "tune"))
    LOG.info("%s", placement)
    for task in tasks:
        if train is None or len({*task.targets(train.code).ravel()} - {OUTSIDE}) < 2:
            raise UserError(f"--label-task {task.name}: the training set of {data.splits_root} --pct {data.pct} holds ears of "
                            "fewer than two classes")
    assert train
    if not resumed:
        if plan.auto_batch:
            shape = train.groups.shape[1], *config.input_shape
            found = largest_batch(model, shape, arithmetic, samples=len(train) // ranks.world, sharers=ranks.local_world)
            config = replace(config, training=replace(plan, batch_size=min(ranks.gather(found)) * ranks.world))
        if ranks.first:
            run.write_config(settings.to_json(config), {"data": sources.hashes, "versions": versions()})
    trainer = Trainer(config, run, model, arithmetic, train, tune, ranks)
    if resumed:
        trainer.go_on()
    done = trainer.fit()
    if ranks.first:
        plot_training(run.reports / "curves.png", list(run.read_metrics()), best_epoch=done.best_epoch)
        write_page(run)
    measured = f"{plan.early_stop_metric} {done.best_value:.3f} on the tune set" if tune is not None else "no tune set"
    LOG.info("best epoch %d (%s): %s", done.best_epoch, measured, run.checkpoint("best"))
    return Done(run, sources.rejects, ranks.first)

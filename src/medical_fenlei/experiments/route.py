"""The two routes as commands: the same steps, from the preset of either."""
import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.training.config import EAR_ROUTE, DataConfig, EarSpec, RunConfig

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.analysis.trained import Trained
    from medical_fenlei.runs import Run

FIXED = {"ear2d": ("sample", "model", "weights"), "dual": ("sample", "extent", "crop_size", "crop_mm")}
"""Settings that a route does not offer as flags."""


def add_run_flags(parser: argparse.ArgumentParser, route: RunConfig, *, leave_out: tuple[str, ...] = ()) -> None:
    """Every setting of a run on this route."""
    settings.add_flags(parser, RunConfig, base=route, leave_out=(*FIXED[route.kind], *leave_out))


def train_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """train_ear2d and train_dual."""
    parser = cli.parser(doc)
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: a new one under outputs/)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run (no other flag is needed)")
    add_run_flags(parser, route)
    args = parser.parse_args(argv)
    if args.resume:
        if args.output_dir or settings.given(args, RunConfig):
            raise UserError("--resume: a run goes on with its own settings; leave the other flags away")
        done = resume_run(args.resume, kind=route.kind)
    else:
        config = settings.from_flags(RunConfig, args, base=route)
        done = start_run(with_cache(config, named=bool(settings.given(args, EarSpec))), args.output_dir)
    return cli.report_rejects(done.rejects, done.run.reports / "train.csv")


def build_cache_command(doc: str | None, route: RunConfig, argv: list[str] | None) -> int:
    """build_cache_ears and build_cache_dual."""
    parser = cli.parser(doc)
    cli.add(parser, "splits_root", "manifest_csv", "dicom_base", "num_workers", "limit",
            pct=100, cache_dir=route.data.cache_dir)
    parser.add_argument("--verify", action="store_true", help="read what is there first, and make anew what is damaged")
    settings.add_flags(parser, EarSpec, base=route.ears, leave_out=FIXED[route.kind])
    args = parser.parse_args(argv)
    spec = settings.from_flags(EarSpec, args, base=route.ears)

    from medical_fenlei import tables
    from medical_fenlei.ears.build import fill_store, missing_ears, verify_store
    from medical_fenlei.ears.store import EarStore

    split = tables.read_split(args.splits_root, args.pct)
    manifest = tables.MANIFEST.read(args.manifest_csv)
    if not args.dicom_base.is_dir():
        raise UserError(f"--dicom-base {args.dicom_base}: no such folder")
    wanted = manifest[manifest.exam_id.isin({e for frame in split.sets.values() for e in frame.exam_id})][: args.limit]
    store = EarStore(args.cache_dir, spec)
    if args.verify:
        damaged = verify_store(store, wanted, workers=args.num_workers)
        cli.say(f"verified: {len(damaged)} were damaged and are made anew" + (f": {', '.join(damaged)}" if damaged else ""))
    there = len(wanted) - len(missing_ears(store, wanted))
    done = fill_store(store, wanted, dicom_base=args.dicom_base, workers=args.num_workers, label="ears")
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

    Raises UserError, and leaves no folder, if it cannot begin; Stopped if a signal ended it after an epoch was saved.
    """
    from medical_fenlei.runs import Run
    from medical_fenlei.tasks import find_task

    task = find_task(config.data.label_task)
    network = config.model.backbone if config.kind == EAR_ROUTE.kind else config.model.model.removeprefix("dual_")
    run = Run.new(output_dir, f"{config.kind}_{task.name}_{network}")
    try:
        return _train(run, config, resumed=False)
    except UserError:
        run.discard()
        raise


def resume_run(folder: Path, *, kind: str) -> Done:
    """Go on with a run after its last whole epoch, with its own settings. Raises UserError if it is none of this kind."""
    from medical_fenlei.runs import Run

    run = Run(folder)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    if config.kind != kind:
        raise UserError(f"--resume {folder}: is a run of kind {config.kind}, expected {kind}")
    return _train(run, config, resumed=True)


def _train(run: "Run", config: RunConfig, *, resumed: bool) -> Done:
    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.models.build import build_model
    from medical_fenlei.report.plots import plot_training
    from medical_fenlei.runs import LOG, versions
    from medical_fenlei.tasks import find_task
    from medical_fenlei.training.batch_size import largest_batch
    from medical_fenlei.training.device import Arithmetic, seed_everything
    from medical_fenlei.training.loop import Trainer

    run.open_log()
    plan, task = config.training, find_task(config.data.label_task)
    arithmetic = Arithmetic.choose(plan.device, plan.precision)
    seed_everything(plan.seed, arithmetic.device)
    model = build_model(config.model, shape=config.input_shape, outputs=task.outputs).to(arithmetic.device)

    store = EarStore(config.data.cache_dir, config.ears)
    sources = find_ears(config.data, store, task, ("train", "tune"))
    placement = sources.placement(store, arithmetic.device)
    train, tune = (sources.dataset(store, name, placement) for name in ("train", "tune"))
    LOG.info("%s", placement)
    if train is None or len({*task.targets(train.code[train.present])}) < 2:
        raise UserError(f"--label-task {task.name}: the training set of {config.data.splits_root} --pct {config.data.pct} "
                        "holds ears of fewer than two classes")
    if not resumed:
        if plan.auto_batch:
            ears = train.groups.shape[1]
            found = largest_batch(model, (ears, *config.input_shape), arithmetic, samples=len(train))
            config = replace(config, training=replace(plan, batch_size=found))
        run.write_config(settings.to_json(config), {"data": sources.hashes, "versions": versions()})
    trainer = Trainer(config, run, model, arithmetic, train, tune)
    if resumed:
        trainer.go_on()
    try:
        done = trainer.fit()
    except KeyboardInterrupt:
        raise Stopped(f"saved after epoch {trainer.progress.epoch}; --resume {run.folder} goes on") from None
    plot_training(run.reports / "curves.png", list(run.read_metrics()), best_epoch=done.best_epoch)
    measured = f"{plan.early_stop_metric} {done.best_value:.3f} on the tune set" if tune is not None else "no tune set"
    LOG.info("best epoch %d (%s): %s", done.best_epoch, measured, run.checkpoint("best"))
    return Done(run, sources.rejects)

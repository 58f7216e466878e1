"""A run from its settings to its best checkpoint: begun, or gone on with where it was saved last."""
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from medical_fenlei import settings
from medical_fenlei.config import EAR_ROUTE, RunConfig
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.log import LOG
from medical_fenlei.models.build import build_model
from medical_fenlei.runs import Run, versions
from medical_fenlei.tasks import OUTSIDE, find_tasks
from medical_fenlei.training.batch_size import largest_batch
from medical_fenlei.training.device import Arithmetic, seed_everything
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.loop import Trainer

Report = Callable[[Run], object]


def _no_report(run: Run) -> None:
    """A run without a page."""


@dataclass(frozen=True)
class Done:
    """A run that came to its end."""

    run: Run
    rejects: pd.DataFrame
    """`tables.REJECTS`."""

    first: bool
    """Whether this process is the run's first or only one."""


def start_run(config: RunConfig, output_dir: Path | None, *, report: Report = _no_report) -> Done:
    """Train a new run; `report` is called with it at the end, in the first of several processes.

    Raises UserError, and leaves no folder, if it cannot begin; Stopped if a signal ended it and it was saved.
    """
    tasks = find_tasks(config.data.label_task)
    network = config.model.backbone if config.kind == EAR_ROUTE.kind else config.model.model.removeprefix("dual_")
    with _company(config) as (arithmetic, ranks):
        run = ranks.first_alone(lambda: Run.new(output_dir, f"{config.kind}_{'+'.join(task.name for task in tasks)}_{network}"))
        with _ending_well(run, fresh=ranks.first):
            return _train(run, config, arithmetic, ranks, report, resumed=False)


def resume_run(folder: Path, *, kind: str, report: Report = _no_report) -> Done:
    """Go on with a run where it was saved last, with its own settings. Raises UserError if it is none of this kind."""
    run = Run(folder)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    if config.kind != kind:
        raise UserError(f"--resume {folder}: is a run of kind {config.kind}, expected {kind}")
    with _company(config) as (arithmetic, ranks), _ending_well(run, fresh=False):
        return _train(run, config, arithmetic, ranks, report, resumed=True)


@contextlib.contextmanager
def _ending_well(run: Run, *, fresh: bool) -> Iterator[None]:
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
def _company(config: RunConfig) -> Iterator[tuple[Arithmetic, Ranks]]:
    """Where this process computes, and the others of the run."""
    arithmetic = Arithmetic.choose(config.training.device, config.training.precision)
    with Ranks.joined(arithmetic.device) as ranks:
        yield arithmetic, ranks


def _train(run: Run, config: RunConfig, arithmetic: Arithmetic, ranks: Ranks, report: Report, *, resumed: bool) -> Done:
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
        report(run)
    measured = f"{plan.early_stop_metric} {done.best_value:.3f} on the tune set" if tune is not None else "no tune set"
    LOG.info("best epoch %d (%s): %s", done.best_epoch, measured, run.checkpoint("best"))
    return Done(run, sources.rejects, ranks.first)

"""A run from its settings to its best checkpoint: started, or resumed where it was last saved."""
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from medical_fenlei import settings
from medical_fenlei.config import EAR_ROUTE, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.log import LOG
from medical_fenlei.models.build import build_model
from medical_fenlei.models.network import Network
from medical_fenlei.runs import Run, versions
from medical_fenlei.set_sizes import SetSize
from medical_fenlei.tasks import OUTSIDE, Task, find_tasks
from medical_fenlei.training.batch_size import largest_batch
from medical_fenlei.training.device import ComputeSettings, seed_everything
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.loop import Trainer

Report = Callable[[Run], object]
"""Writes the page of a finished run."""


def _no_report(run: Run) -> None:
    """A run without a page."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained to its end."""

    run: Run
    rejects: pd.DataFrame
    """The ears that could not be prepared, a `tables.REJECTS`."""

    is_first: bool
    """Whether this process is the first (or only) one of the run, which writes for all."""


def start_run(config: RunConfig, output_dir: Path | None, *, report: Report = _no_report) -> FinishedRun:
    """Train a new run. `report` is called at the end, by the first process only.

    Raises UserError, and leaves no folder, if the run cannot start; Stopped if a signal stopped it after it was saved.
    """
    tasks = find_tasks(config.data.label_task)
    network = config.model.backbone if config.kind == EAR_ROUTE.kind else config.model.model.removeprefix("dual_")
    name = f"{config.kind}_{'+'.join(task.name for task in tasks)}_{network}"
    with _processes(config) as (compute, ranks):
        run = ranks.on_first(lambda: Run.new(output_dir, name))
        with _exclusive(run, ranks, is_new=True), _cleanup_on_error(run, is_new=ranks.is_first):
            return _train(run, config, compute, ranks, report, resume=False)


def resume_run(folder: Path, *, kind: str, report: Report = _no_report) -> FinishedRun:
    """Resume a run where it was last saved, with its own settings. Raises UserError if it is no run of this kind."""
    run = Run(folder)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    if config.kind != kind:
        raise UserError(f"--resume {folder}: is a run of kind {config.kind}, expected {kind}")
    with (_processes(config) as (compute, ranks), _exclusive(run, ranks, is_new=False),
          _cleanup_on_error(run, is_new=False)):
        return _train(run, config, compute, ranks, report, resume=True)


@contextlib.contextmanager
def _processes(config: RunConfig) -> Iterator[tuple[ComputeSettings, Ranks]]:
    """Choose the device and precision of this process, and join the other processes of the run."""
    compute = ComputeSettings.choose(config.training.device, config.training.precision)
    with Ranks.join(compute.device) as ranks:
        yield compute, ranks


@contextlib.contextmanager
def _exclusive(run: Run, ranks: Ranks, *, is_new: bool) -> Iterator[None]:
    """Lock the run's folder for all its processes, by the first of them. Raises UserError if another run works in it."""
    with contextlib.ExitStack() as held:
        ranks.on_first(lambda: held.enter_context(run.exclusive(is_new=is_new)))
        yield


@contextlib.contextmanager
def _cleanup_on_error(run: Run, *, is_new: bool) -> Iterator[None]:
    """Add to an error how to continue. is_new: remove a run that has no result yet, so that it can be started again."""
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt) as error:
        if is_new:
            run.discard()
        started = run.config_json.exists()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or run.folder}: {error.strerror or error}; what was saved before is intact: make "
                            "room, then " + (f"--resume {run.folder}" if started else "run it again")) from None
        if isinstance(error, KeyboardInterrupt) and started:
            raise Stopped(f"what was saved before is intact; continue with --resume {run.folder}") from None
        raise


def _train(run: Run, config: RunConfig, compute: ComputeSettings, ranks: Ranks, report: Report, *, resume: bool) -> FinishedRun:
    if ranks.is_first:
        run.open_log()
    plan, data, tasks = config.training, config.data, find_tasks(config.data.label_task)
    seed_everything(plan.seed, compute.device, deterministic=plan.deterministic, tf32=plan.tf32)
    model = build_model(config.model, shape=config.input_shape, outputs=sum(task.outputs for task in tasks),
                        scale=config.physical_scale)
    model = model.to(compute.device)
    ranks.broadcast_weights(model)
    if plan.grad_checkpointing:
        model.enable_grad_checkpointing()                        # before the search for the largest batch

    store = EarStore(data.cache_dir, config.ears)
    sources = ranks.on_first(lambda: find_ears(data, store, tasks, ("train", "tune")))
    placement = sources.placement(store, compute.device, processes=ranks.local_world_size)
    train, tune = (sources.dataset(store, name, placement) for name in ("train", "tune"))
    LOG.info("%s", sources.description)
    LOG.info("%s", placement)
    train = _require_two_classes(train, tasks, config)
    if ranks.is_first:
        _warn_of_small_sets({"train": train, "tune": tune}, tasks, config)
    if plan.auto_batch and not resume:
        config = _with_largest_batch(config, model, train, compute, ranks)

    trainer = Trainer(config, run, model, compute, train, tune, ranks)
    if not resume and ranks.is_first:
        run.write_config(settings.to_json(config), {"data": sources.hashes, "versions": versions(),
                                                    "schedule": vars(trainer.schedule)})
    if resume:
        if ranks.is_first:
            _warn_of_changes(run, sources.hashes)
        trainer.resume()
    progress = trainer.fit()
    if ranks.is_first:
        report(run)
    measured = f" {progress.best_value:.3f}" if trainer.choice.on_tune else ""
    LOG.info("best epoch %d (%s%s): %s", progress.best_epoch, trainer.choice.words, measured, run.checkpoint("best"))
    return FinishedRun(run, sources.rejects, ranks.is_first)


def _warn_of_changes(run: Run, hashes: Mapping[str, str | None]) -> None:
    """Warn if a run is resumed with another manifest or split, so that its ears may be cut from other series or be others."""
    known = run.read_hashes()
    for name in ("manifest", "train", "tune"):
        if known.get(name) not in (None, hashes.get(name)):
            LOG.warning("%s: the %s table has changed since the run began; start a new run unless both may be mixed",
                        run.folder, name)


def _warn_of_small_sets(sets: Mapping[str, EarDataset | None], tasks: tuple[Task, ...], config: RunConfig) -> None:
    """Warn of each set that is too small for a task, and name the network that learns from fewer ears."""
    small = set()
    for name, ears in sets.items():
        for task in tasks:
            if ears is not None and (warning := SetSize.of(ears.ears, task).warning(name)):
                LOG.warning("%s", warning)
                small.add(name)
    if "train" in small and not config.uses_anatomy:
        LOG.warning("--backbone anatomy learns from fewer ears than other networks (docs/anatomy.md)")


def _require_two_classes(train: EarDataset | None, tasks: tuple[Task, ...], config: RunConfig) -> EarDataset:
    """Return the training set. Raises UserError if a task has ears of fewer than two classes in it."""
    for task in tasks:
        if train is None or len({*task.targets(train.code).ravel()} - {OUTSIDE}) < 2:
            raise UserError(f"--label-task {task.name}: the training set of {config.data.splits_root} --pct {config.data.pct} "
                            "holds ears of fewer than two classes")
    assert train
    return train


def _with_largest_batch(config: RunConfig, model: Network, train: EarDataset, compute: ComputeSettings, ranks: Ranks
                        ) -> RunConfig:
    """Return the settings with the largest batch size that fits on every process."""
    found = largest_batch(model, (train.groups.shape[1], *config.input_shape), compute,
                          samples=len(train) // ranks.world_size, processes=ranks.local_world_size)
    return replace(config, training=replace(config.training, batch_size=min(ranks.gather(found)) * ranks.world_size))

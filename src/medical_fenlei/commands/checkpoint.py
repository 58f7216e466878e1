"""The flags of every command on a trained network, and opening that network."""
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medical_fenlei import cli, settings
from medical_fenlei.config import DUAL, EAR2D, DataConfig, RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import check_cohort_name, find_cohort
from medical_fenlei.own_files import keep_apart
from medical_fenlei.runs import Run
from medical_fenlei.vocabulary import WHOLE_MANIFEST

if TYPE_CHECKING:
    from medical_fenlei.trained.network import TrainedNetwork

READERS = {
    EAR2D: ("eval_ear2d", "calibrate_ear2d", "predict_ear2d", "gradcam_ear2d", "extract_embeddings_ear2d",
            "retrieve_neighbors_ear2d", "audit_run"),
    DUAL: ("eval_dual", "calibrate_dual", "predict_dual", "gradcam_dual", "audit_run"),
}
"""The commands that read a checkpoint of each kind; those of both kinds that do the same job differ in their ending alone."""


def add_checkpoint_flags(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """Add the checkpoint, the device, the batch size, and flags that replace the data settings of the run."""
    cli.add_shared_flags(parser, "checkpoint", "device")
    parser.add_argument("--batch-size", type=cli.int_at_least(1), help="samples per batch (default: the run's)")
    if "label_task" not in leave_out:
        parser.add_argument("--label-task", metavar="NAME,NAME", default=argparse.SUPPRESS,
                            help="tasks of the network, by name or Chinese alias (default: all)")
    settings.add_flags(parser, DataConfig, default="the run's", leave_out=("label_task", "sample", *leave_out))


def add_set_flags(parser: argparse.ArgumentParser, *, choices: Sequence[str], does: str, default: str | None = "val") -> None:
    """Add --split and --cohort, which exclude each other. does: a verb, what the command does with the set.

    default: of --split; None where the command takes none, or something else.
    """
    which = parser.add_mutually_exclusive_group()
    further = f"; {WHOLE_MANIFEST}: every ear of --manifest-csv" if WHOLE_MANIFEST in choices else ""
    which.add_argument("--split", choices=choices, default=default,
                       help=f"set to {does}{further}" + (f" (default: {default})" if default else ""))
    which.add_argument("--cohort", type=_cohort_name, metavar="NAME",
                       help=f"{does} the patients of another hospital, under this name: every ear of --manifest-csv, images in "
                       "--dicom-base, without patients that the network was fitted on. Once evaluated, its name is enough")


def _cohort_name(text: str) -> str:
    try:
        return check_cohort_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def open_checkpoint(
    args: argparse.Namespace, *, kind: str | None, job: str, sets: Sequence[str] = (), every_label: bool = False,
    exam: tuple[str, Sequence[str]] | None = None,
) -> tuple["TrainedNetwork", DataConfig]:
    """Open the network of --checkpoint; return it with the run's data settings, as changed by the flags. Raises UserError.

    kind: the route of the network; None for both. job: the command's name without its ending, such as `eval`.
    What the command will read is checked and listed first, before torch is imported: the ears of some sets (every_label: those
    without a target in the network's tasks too), and those of one exam on some sides.
    """
    config = check_checkpoint(args.checkpoint, kind=kind, job=job)
    if config is not None:
        _check_data(args, config, sets, every_label=every_label, exam=exam)

    from medical_fenlei.trained.network import open_network  # slow to import

    network = open_network(args.checkpoint, kind=None, device=args.device)
    refuse_other_kind(args.checkpoint, network.config.kind, kind, job=job)
    data = _data_settings(args, network.config, network.run)
    if config is None or config.data != network.config.data:
        cli.warn(f"--checkpoint {args.checkpoint}: its settings are not those of {network.run.config_json}; its own count: "
                 f"splits {data.splits_root}, manifest {data.manifest_csv}, DICOM {data.dicom_base}, cache {data.cache_dir}")
    cli.keep_input_apart(args, dicom_base=data.dicom_base)
    keep_apart({"--cache-dir": data.cache_dir}, {"--dicom-base": data.dicom_base})
    return network, data


def refuse_other_kind(path: Path, got: str, expected: str | None, *, job: str) -> None:
    """Raise UserError, with the command that does this job, if a checkpoint is not of the kind expected; None reads both."""
    if expected is not None and got != expected:
        readers = READERS.get(got, ())
        same = [name for name in readers if name == f"{job}_{got}"]
        others = f"{', '.join(readers[:-1])} and {readers[-1]} read it" if readers else "no command here reads it"
        raise UserError(f"--checkpoint {path}: holds a network of kind {got}, expected {expected}; "
                        + (f"{same[0]} does this with it" if same else others))


def check_checkpoint(path: Path, *, kind: str | None, job: str) -> RunConfig | None:
    """Return the settings of the run of a checkpoint, with the paths of its data as they are reached from here.

    They are those of `config.json` in the run's folder; None if there is none that can be read, since the checkpoint has them
    too. Raises UserError if there is no checkpoint, or one of another kind. Needs no torch.
    """
    from medical_fenlei.trained.home import at_home, home_of
    from medical_fenlei.training.checkpoint_file import check_file

    check_file(path)
    run = Run.of_checkpoint(path)
    try:
        config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    except UserError:
        return None
    refuse_other_kind(path, config.kind, kind, job=job)
    home = home_of(run, config.data)
    if home is not None:
        cli.say(f"--checkpoint {path}: splits, manifest, DICOM and cache are those below {home}, where no flag names others")
    return at_home(config, run)


def _data_settings(args: argparse.Namespace, config: RunConfig, run: Run) -> DataConfig:
    """The data settings of a run as changed by the flags; of a cohort with its own manifest, images and caches."""
    data, name = settings.from_flags(DataConfig, args, base=config.data), getattr(args, "cohort", None)
    if name is None:
        return data
    cohort = find_cohort(name, run.reports, given=settings.given(args, DataConfig), own_manifest=config.data.manifest_csv,
                         own_cache=config.data.cache_dir)
    return replace(data, manifest_csv=cohort.manifest_csv, dicom_base=cohort.dicom_base, cache_dir=cohort.cache_dir)


def _check_data(args: argparse.Namespace, config: RunConfig, sets: Sequence[str], *, every_label: bool,
                exam: tuple[str, Sequence[str]] | None) -> None:
    """Check and list what a command will read. Raises UserError."""
    from medical_fenlei.data.selection import empty_set, find_exam, select_ears
    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.tasks import find_tasks

    run = Run.of_checkpoint(args.checkpoint)
    data = _data_settings(args, config, run)
    tasks = None if every_label else find_tasks(data.label_task, among=find_tasks(config.data.label_task))
    if exam is not None:
        find_exam(data, *exam, reports=run.reports)
    if sets:
        found = select_ears(data, tasks, sets)
        for name in sets:
            if name not in found.ears or found.ears[name].empty:
                raise empty_set(data, name, tasks)
        cli.say(found.describe(EarStore(data.cache_dir, config.ears), data))

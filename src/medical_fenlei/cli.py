"""What every command shares: flags with one meaning everywhere, output, exit statuses, errors as a single line."""
import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from medical_fenlei import ENVIRONMENT_HINT, settings
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import BAD_INPUT, CHECK_FAILED, OK, PARTLY, STOPPED, CheckFailed, Stopped, UserError
from medical_fenlei.log import FILE_ONLY, LOG, log_to_terminal, write_to
from medical_fenlei.own_files import keep_apart
from medical_fenlei.parallel import Workers
from medical_fenlei.reasons import USED, remedy
from medical_fenlei.signals import raise_if_stopped, stop_is_handled, stop_on_signals
from medical_fenlei.vocabulary import plural

if TYPE_CHECKING:
    import pandas as pd

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for one another sleep instead of spinning, so that training keeps its share of a machine that is used by
others too. Read when torch is loaded; inherited by processes that a command starts."""


def int_at_least(low: int) -> Callable[[str], int]:
    """Return a parser of flag values: an integer that is at least `low`."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of at least {low}")
        return int(text)

    return parse


def comma_separated_ints(text: str) -> tuple[int, ...]:
    """Parse a flag value such as `0,1,2`. Raises argparse.ArgumentTypeError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers with commas") from None


def comma_separated(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of flag values such as `one,two`, each of them one of the choices."""
    def parse(text: str) -> tuple[str, ...]:
        unknown = [part for part in text.split(",") if part not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"got {unknown[0]!r}, expected some of {', '.join(choices)}")
        return tuple(text.split(","))

    return parse


FLAGS: dict[str, dict[str, Any]] = {
    "xlsx_path": {"type": Path, "help": "label sheet, .xlsx or .csv (default: the only .xlsx in metadata/)"},
    "index_csv": {"type": Path, "default": Path("artifacts/dataset_index.csv"),
                  "help": "index, one row per exam (default: %(default)s)"},
    "cluster": {"metavar": "ADDRESS",
                "help": "Dask scheduler whose workers do the work instead of --num-workers processes (docs/SETUP.md)"},
    "series_rules": {"type": Path, "metavar": "FILE", "help": "TOML file that changes how series are chosen (docs/TASK.md)"},
    "out_csv": {"type": Path, "metavar": "CSV", "help": "output table (default: %(default)s)"},
    "out_dir": {"type": Path, "metavar": "DIR", "help": "output folder (default: %(default)s)"},
    "resamples": {"type": int_at_least(1), "default": 2000, "metavar": "N",
                  "help": "bootstrap resamples of each confidence interval (default: %(default)s)"},
    "checkpoint": {"type": Path, "required": True, "help": "checkpoint of a run: outputs/<run>/checkpoints/best.pt"},
}
"""Flags that mean the same in every command and are no settings of a run: keyword arguments of `add_argument`, by name."""

FORMER_NAMES = {"resamples": ("--draws",)}
"""Flags that were called otherwise in earlier versions."""


READ = ("dicom", "dicom_base", "archives", "xlsx_path", "index_csv", "manifest_csv", "series_rules", "checkpoint",
        "predictions", "train_npz", "val_npz")
"""Flags that name what a command only reads."""
WRITTEN = ("out_dir", "out_csv", "template", "out_npz", "output_dir", "cache_dir", "patient_key_file", "log")
"""Flags that name what a command writes."""


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *given: Any, **more: Any) -> Any:
        """Parse the flags. Raises UserError if an output is, holds or lies in an input."""
        found = super().parse_args(*given, **more)
        keep_input_apart(found)
        return found

    def _print_message(self, message: str, file: Any = None) -> None:
        write_to(file or sys.stderr, message)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def keep_input_apart(args: argparse.Namespace, **more: Path) -> None:
    """Raise UserError if an output of these flags is, holds or lies in an input. more: inputs that are no flags, by name."""
    keep_apart(_paths(args, WRITTEN), _paths(argparse.Namespace(**{**vars(args), **more}), READ))


def _paths(args: argparse.Namespace, names: Collection[str]) -> dict[str, Path | None]:
    """The paths that these flags name, by flag; of several, each counts."""
    found: dict[str, Path | None] = {}
    for name in names:
        given = getattr(args, name, None)
        for number, path in enumerate(given if isinstance(given, list) else [given]):
            if isinstance(path, Path):
                found["--" + name.replace("_", "-") + (f" [{number + 1}]" if number else "")] = path
    return found


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring."""
    return _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def add_shared_flags(to: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """Add flags that mean the same in every command: settings of a run by their field's name, and those of `FLAGS`.

    A keyword adds the flag of that name with another default.
    """
    for name in (*names, *defaults):
        if name in FLAGS:
            default = {"default": defaults[name]} if name in defaults else {}
            add_flag(to, "--" + name.replace("_", "-"), *FORMER_NAMES.get(name, ()), **{**FLAGS[name], **default})
        else:
            setting = settings.find_setting(RunConfig, name)
            default = defaults.get(name, setting.default)
            options = {**setting.argument(setting.text_of(default)), "type": setting.parse_and_check}
            to.add_argument(setting.flag, default=default, **options)


def add_flag(to: argparse.ArgumentParser, flag: str, *former_names: str, **options: Any) -> None:
    """Add a flag that is accepted under its former names too; help and errors show the present name only."""
    to.add_argument(flag, *former_names, **options).option_strings = [flag]


def workers(args: argparse.Namespace) -> Workers:
    """The workers that --cluster or else --num-workers names."""
    chosen: Workers = args.cluster or args.num_workers
    return chosen


def say(text: str) -> None:
    """Print a line of the result to standard output. Where nobody reads it, such as behind `| head`, the work goes on."""
    write_to(sys.stdout, text + "\n")


def warn(text: str) -> None:
    """Log a warning: a line on standard error, and in the log file of a run."""
    LOG.warning("%s", text)


def show(table: "pd.DataFrame") -> None:
    """Print a table to standard output, without its index."""
    say(table.to_string(index=False))


def report_rejects(rejects: "pd.DataFrame", output: Path, *, faults: int | None = None, harmless: Collection[str] = ()) -> int:
    """Write what could not be used, or has to be checked, beside an output; print how many, why and what to do.

    faults: how many of the rejects are faults of the input (default: all); the others are only counted.
    harmless: reasons of those others, which are listed last. Returns the exit status.
    """
    from medical_fenlei import tables

    path = tables.rejects_path(output)
    tables.REJECTS.write(path, rejects)
    for reason, number in sorted(rejects.reason.value_counts().items(), key=lambda count: count[0] in harmless):
        exams = rejects.exam_id[(rejects.reason == reason) & (rejects.exam_id != "")].nunique()
        outcome = "used" if reason in USED else "passed over" if reason in harmless else "left out"
        outcome += ", to be checked" if outcome == "used" and reason not in harmless else ""
        what = f"{number:7d} {outcome}: {reason}" + (f" (in {plural(exams, 'exam')})" if 0 < exams < number else "")
        say(f"{what}: {remedy(str(reason))}" if remedy(str(reason)) else what)
    faults = len(rejects) if faults is None else faults
    checks = int(rejects.reason.isin(USED - {*harmless}).sum())
    parts = [f"{faults - checks} could not be used"] * (faults > checks) + [f"{checks} used, to be checked"] * (checks > 0)
    if faults:
        warn(f"{', '.join(parts)}; {path} says which and why")
    elif len(rejects):
        say(f"{path} says which and why")
    return PARTLY if faults else OK


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Error numbers with which a disk refuses a file at the place it was asked for: no fault of the program."""


def run(main: Callable[[], int]) -> int:
    """Call a script's `main` and return its exit status: 0, 1, 2, 3 or 75. Faults of the program keep their traceback.

    Why a command ends early is printed as one line on standard error, and written to the log file of a run.
    """
    stop_on_signals()
    log_to_terminal()
    try:
        done = main()
        raise_if_stopped()                                       # by a signal that a library swallowed
        return done
    except (Exception, KeyboardInterrupt) as error:
        asked = stop_is_handled() and not isinstance(error, Stopped)
        reason, status = _explained(KeyboardInterrupt() if asked else error)
        LOG.log(logging.INFO if status == STOPPED else logging.ERROR, "%s", reason, extra=FILE_ONLY)
        if status is None:
            raise
        rank = os.environ.get("RANK", "0")
        write_to(sys.stderr, f"{Path(sys.argv[0]).stem}{f' (rank {rank})' if rank != '0' else ''}: {reason}\n")
        return status


def _explained(error: BaseException) -> tuple[str, int | None]:
    """Why a command ends, and its exit status; None for a fault of the program."""
    match error:
        case UserError():
            return str(error), BAD_INPUT
        case CheckFailed():
            return str(error), CHECK_FAILED
        case KeyboardInterrupt() | Stopped():
            return f"stopped; {str(error) or 'what was finished is kept; run it again to go on'}", STOPPED
        case ModuleNotFoundError(name=str(module)) if module.split(".")[0] != "medical_fenlei":
            return f"{sys.executable} has no module {module!r}; {ENVIRONMENT_HINT}", BAD_INPUT
        case OSError(errno=number) if number in REFUSED:
            what = "make room there and run it again" if number in FULL else "it cannot be read or written; name another place"
            return f"{error.filename or 'the disk'}: {error.strerror}; {what}", BAD_INPUT
        case _:
            return f"{type(error).__name__}, a fault of the program; its traceback is on standard error", None

"""What every command shares: flags that mean the same everywhere, exit statuses, the one place where errors become a line."""
import argparse
import errno
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from medical_fenlei import parallel
from medical_fenlei.errors import BAD_INPUT, CHECK_FAILED, OK, PARTLY, STOPPED, CheckFailed, Stopped, UserError
from medical_fenlei.log import log_to_terminal
from medical_fenlei.signals import stop_on_signals

if TYPE_CHECKING:
    import pandas as pd



def at_least(low: int) -> Callable[[str], int]:
    """A flag's value: an integer, `low` or more."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of at least {low}")
        return int(text)

    return parse


SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "dicom_base": {"type": Path, "default": Path("data/medical_data_2"), "help": "the extracted DICOM"},
    "xlsx_path": {"type": Path, "default": None, "help": "label sheet, .xlsx or .csv (default: the only .xlsx in metadata/)"},
    "index_csv": {"type": Path, "default": Path("artifacts/dataset_index.csv"), "help": "one row an exam"},
    "manifest_csv": {"type": Path, "default": Path("artifacts/manifest_ears.csv"), "help": "one row an ear"},
    "splits_root": {"type": Path, "default": Path("artifacts/splits_dual"), "help": "holds 1pct/ 20pct/ 100pct/"},
    "pct": {"type": int, "default": 20, "help": "which amount of training data, percent"},
    "cache_dir": {"type": Path, "default": Path("cache/ears_hu"), "help": "holds one folder a preprocessing"},
    "num_workers": {"type": at_least(0), "default": parallel.default_workers(), "help": "processes"},
    "cluster": {"default": None, "metavar": "ADDRESS",
                "help": "of a Dask scheduler whose workers do the work, in place of --num-workers (docs/SETUP.md)"},
    "seed": {"type": int, "default": 42, "help": "of every random choice"},
    "device": {"choices": ("auto", "cpu", "cuda"), "default": "auto", "help": "where to compute"},
    "limit": {"type": at_least(1), "default": None, "metavar": "N", "help": "only the first N items, to try things out"},
    "draws": {"type": at_least(1), "default": 2000, "help": "resamples of an interval"},
    "checkpoint": {"type": Path, "required": True, "help": "outputs/<run>/checkpoints/best.pt"},
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def add(to: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """Add shared flags by name; a keyword adds one with another default (SUPPRESS: only where given)."""
    for name in (*names, *defaults):
        options = dict(SHARED_FLAGS[name])
        if name in defaults:
            options["default"] = defaults[name]
        shown = options.get("default")
        if shown is not None and shown is not argparse.SUPPRESS and "(default" not in options["help"]:
            options["help"] += f" (default: {shown})"
        to.add_argument("--" + name.replace("_", "-"), **options)


def workers(args: argparse.Namespace) -> parallel.Workers:
    """Who does the work: --cluster, or --num-workers."""
    found: parallel.Workers = args.cluster or args.num_workers
    return found


def numbers(text: str) -> tuple[int, ...]:
    """A flag's value like `0,1,2`."""
    return tuple(int(part) for part in text.split(","))


def words(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """A flag's value like `one,two`, each one of the choices."""
    def parse(text: str) -> tuple[str, ...]:
        unknown = [part for part in text.split(",") if part not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"got {unknown[0]!r}, expected some of {', '.join(choices)}")
        return tuple(text.split(","))

    return parse


def say(text: str) -> None:
    """A line of result, on standard output."""
    print(text, flush=True)


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def show(table: "pd.DataFrame") -> None:
    say(table.to_string(index=False))


def report_rejects(rejects: "pd.DataFrame", output: Path, *, faults: int | None = None, harmless: Collection[str] = ()) -> int:
    """Write what could not be used beside an output, say how many and why, and return the exit status.

    faults: how many of the rejects are faults of the input (default: all); the others are only counted.
    harmless: reasons of these others, which are told last.
    """
    from medical_fenlei import tables

    path = tables.rejects_path(output)
    tables.REJECTS.write(path, rejects)
    for reason, number in sorted(rejects.reason.value_counts().items(), key=lambda count: count[0] in harmless):
        exams = rejects.exam_id[(rejects.reason == reason) & (rejects.exam_id != "")].nunique()
        say(f"{number:7d} {'passed over' if reason in harmless else 'left out'}: {reason}"
            + (f" (in {exams} exams)" if 0 < exams < number else ""))
    faults = len(rejects) if faults is None else faults
    if faults:
        warn(f"{faults} could not be used; {path} says which and why")
    elif len(rejects):
        say(f"{path} says which and why")
    return PARTLY if faults else OK


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""How a disk says that a file cannot be where it was asked for: no fault of the program."""


def run(main: Callable[[], int]) -> int:
    """Call a script's main and return its exit status (SPEC: 0, 1, 2, 3, 75). Faults of the program keep their traceback."""
    stop_on_signals()
    log_to_terminal()
    name = Path(sys.argv[0]).stem + (f" (rank {rank})" if (rank := os.environ.get("RANK", "0")) != "0" else "")
    try:
        return main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except CheckFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return CHECK_FAILED
    except (KeyboardInterrupt, Stopped) as error:
        print(f"{name}: stopped; {str(error) or 'what was finished is kept; run it again to go on'}", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:                                     # `| head` closed the pipe: not a fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        what = "make room there and run it again" if error.errno in FULL else "it cannot be read or written; name another place"
        print(f"{name}: {error.filename or 'the disk'}: {error.strerror}; {what}", file=sys.stderr)
        return BAD_INPUT

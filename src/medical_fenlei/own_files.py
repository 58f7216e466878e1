"""What a command may write: nothing in its input, and no file in the place of one that somebody else has put there."""
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json, write_json

LEDGER = ".written.json"
"""Name of the list in a folder of the files and folders in it that this program wrote."""


class OwnFiles:
    """The files and folders in a folder that this program wrote, known by a list that is written before they are."""

    def __init__(self, folder: Path, flag: str) -> None:
        """Read the list of a folder, which need not exist. flag: the flag that names the folder, for errors."""
        self.folder, self.flag, self.names = folder, flag, frozenset[str]()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self.names = frozenset(name for name in read_json(folder / LEDGER)["files"] if Path(name).name == name)

    def refuse_others(self, names: Iterable[str]) -> None:
        """Raise UserError if one of these names is taken by something that this program did not write."""
        for name in sorted({*names} - self.names):
            if (self.folder / name).exists() or (self.folder / name).is_symlink():
                raise UserError(f"{self.flag} {self.folder}: holds {name}, which this command did not write; name another "
                                "folder, or move it away")

    def claim(self, *names: str) -> None:
        """List these names as written by this program, before they are written. Raises UserError as `refuse_others`."""
        self.refuse_others(names)
        if not self.names.issuperset(names):
            self.names |= {*names}
            write_json(self.folder / LEDGER, {"files": sorted(self.names)})

    def remove_files(self) -> None:
        """Remove the files that this program wrote; folders stay."""
        for name in self.names:
            if not (self.folder / name).is_dir():
                (self.folder / name).unlink(missing_ok=True)


def keep_apart(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Raise UserError if an output is, holds or lies in an input that exists.

    outputs, inputs: paths by the flag that names them. Links are followed. An output that exists as a file, or an input that
    does, can only be the same file.
    """
    for flag, output in outputs.items():
        for other, given in inputs.items():
            if output is None or given is None or not given.exists():
                continue
            written, read = output.resolve(), given.resolve()
            if written == read:
                relation = "is also"
            elif read.is_dir() and written.is_relative_to(read):
                relation = "lies within"
            elif read.is_dir() and read.is_relative_to(written):
                relation = "holds"
            else:
                continue
            raise UserError(f"{flag} {output}: {relation} {other} {given}, which is only read; name another place")

"""Where the members of archives may be written. Uses the standard library only."""
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from medical_fenlei.archives.unpack import IMPOSSIBLE_NAME, PARTS
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.files import is_inside


class Destinations:
    """The path of each member below one folder. No two members share a path, and no path leads out of the folder."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = os.path.realpath(base)
        self._files: dict[str, zipfile.ZipInfo | None] = {PARTS: None}
        self._folders: set[str] = set()

    def take(self, info: zipfile.ZipInfo, prefix: str = "") -> tuple[str, bool]:
        """Return the path of a member, and whether a file of its size exists there already.

        Raises Rejected if the member may not be written.
        """
        name = info.filename.replace("\\", "/")
        if "\0" in info.orig_filename or not PurePosixPath(name).name or not is_inside(name):
            raise Rejected("outside_folder", "its name leads out of the folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise Rejected("not_a_file", "a link or a device")
        path = PurePosixPath(prefix, name)
        if str(path) in self._files:
            self._check_same(str(path), info)
            return str(path), True
        if str(path.parent) not in self._folders:
            self._check_folder(path.parent)
        if str(path) in self._folders:
            raise Rejected("clashes_with_folder", "other members lie in a folder of that name")
        exists = self._exists(str(path), info.file_size)
        self._files[str(path)] = info
        return str(path), exists

    def _check_same(self, path: str, info: zipfile.ZipInfo) -> None:
        """Raise Rejected if the member that has this path already differs in size or checksum."""
        first = self._files[path]
        if first is None or (first.file_size, first.CRC) != (info.file_size, info.CRC):
            raise Rejected("duplicate_member", "another member has the same path and different content")

    def _check_folder(self, folder: PurePosixPath) -> None:
        names = [str(name) for name in (folder, *folder.parents)]
        if any(name in self._files for name in names):
            raise Rejected("clashes_with_folder", "a file has the name of its folder")
        real = os.path.realpath(self._base / folder)
        if real != self._root and not real.startswith(self._root.rstrip(os.sep) + os.sep):
            raise Rejected("outside_folder", "a link on the disk leads out of the folder")
        self._folders.update(names)

    def _exists(self, path: str, size: int) -> bool:
        """Return whether a file of this size exists at the path. Raises Rejected if no file can be written there."""
        try:
            found = os.lstat(self._base / path)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise Rejected("clashes_with_folder", "a file has the name of its folder") from None
        except OSError as error:
            if error.errno in IMPOSSIBLE_NAME:
                raise Rejected("bad_name", "the file system does not accept this name") from None
            raise UserError(f"{self._base}: cannot be read: {error.strerror}") from None
        if stat.S_ISDIR(found.st_mode):
            raise Rejected("clashes_with_folder", "a folder of that name exists")
        return stat.S_ISREG(found.st_mode) and found.st_size == size

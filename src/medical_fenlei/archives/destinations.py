"""Where members of an archive may be written. Standard library only."""
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from medical_fenlei.archives.unpack import IMPOSSIBLE_NAME, PARTS
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.files import is_inside


class Places:
    """Which path below a folder each member takes. No two share one, and none leads out of the folder."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = os.path.realpath(base)
        self._files: dict[str, zipfile.ZipInfo | None] = {PARTS: None}
        self._folders: set[str] = set()

    def take(self, info: zipfile.ZipInfo, prefix: str = "") -> tuple[str, bool]:
        """The path of a member, and whether it is there already. Raises Rejected for one that may have none."""
        name = info.filename.replace("\\", "/")
        if "\0" in info.orig_filename or not PurePosixPath(name).name or not is_inside(name):
            raise Rejected("outside_folder", "its name leads out of the folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise Rejected("not_a_file", "a link or a device")
        path = PurePosixPath(prefix, name)
        if str(path) in self._files:
            return str(path), self._is_same(str(path), info)
        if str(path.parent) not in self._folders:
            self._check_folder(path.parent)
        if str(path) in self._folders:
            raise Rejected("clashes_with_folder", "other members lie in a folder of that name")
        there = self._is_there(str(path), info.file_size)
        self._files[str(path)] = info
        return str(path), there

    def _is_same(self, path: str, info: zipfile.ZipInfo) -> bool:
        first = self._files[path]
        if first is None or (first.file_size, first.CRC) != (info.file_size, info.CRC):
            raise Rejected("duplicate_member", "another member has the same path and a different content")
        return True

    def _check_folder(self, folder: PurePosixPath) -> None:
        names = [str(name) for name in (folder, *folder.parents)]
        if any(name in self._files for name in names):
            raise Rejected("clashes_with_folder", "a file stands where its folder should")
        real = os.path.realpath(self._base / folder)
        if real != self._root and not real.startswith(self._root.rstrip(os.sep) + os.sep):
            raise Rejected("outside_folder", "a link on the disk leads out of the folder")
        self._folders.update(names)

    def _is_there(self, path: str, size: int) -> bool:
        try:
            found = os.lstat(self._base / path)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise Rejected("clashes_with_folder", "a file stands where its folder should") from None
        except OSError as error:
            if error.errno in IMPOSSIBLE_NAME:
                raise Rejected("bad_name", "the disk cannot hold such a name") from None
            raise UserError(f"{self._base}: cannot be read: {error.strerror}") from None
        if stat.S_ISDIR(found.st_mode):
            raise Rejected("clashes_with_folder", "a folder of that name is there")
        return stat.S_ISREG(found.st_mode) and found.st_size == size

"""A file is written completely or not at all, and an error names it."""
import errno
import os

import pytest

from medical_fenlei.files import atomic


def test_a_file_that_cannot_be_written_is_named_as_requested(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as error, atomic(tmp_path / "folder"):
        pass
    assert error.value.filename == str(tmp_path / "folder") and error.value.filename2 is None
    with pytest.raises(OSError, match="No space left") as error, atomic(tmp_path / "full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "full") and [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_file_is_complete_or_absent(tmp_path):
    target = tmp_path / "a" / "x.txt"
    with pytest.raises(RuntimeError), atomic(target, "w") as file:
        file.write("half")
        raise RuntimeError
    assert not list(target.parent.iterdir())
    with atomic(target, "w") as file:
        file.write("whole")
    assert [p.read_text() for p in target.parent.iterdir()] == ["whole"]

"""A file is written completely or not at all, and an error names it."""
import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers.commands import ROOT

from medical_fenlei import files
from medical_fenlei.files import atomic, write_new

WRITING = """
import sys, time
from pathlib import Path
from medical_fenlei.files import atomic

with atomic(Path(sys.argv[1]), "w") as file:
    file.write("half")
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def begin_to_write(path):
    """A process that has begun to write a file, and finishes it when its standard input is closed."""
    process = subprocess.Popen([sys.executable, "-c", WRITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_a_killed_process_left_is_removed_by_the_next_and_not_what_a_living_one_writes(tmp_path):
    killed, living = begin_to_write(tmp_path / "killed.csv"), begin_to_write(tmp_path / "living.csv")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (tmp_path / ".notes.part").write_text("of somebody else")
    assert len(list(tmp_path.glob(".*.csv.*.part"))) == 2
    begin_to_write(tmp_path / "next.csv").communicate()
    living.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.part", "living.csv", "next.csv"]
    assert living.returncode == 0 and (tmp_path / "living.csv").read_text() == "half"


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none_and_has_its_permissions_from_the_beginning(tmp_path, monkeypatch, links):
    def refuse(*given, **more):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "key"
    assert write_new(path, b"first", permissions=0o600) and not write_new(path, b"second", permissions=0o600)
    assert path.read_bytes() == b"first" and path.stat().st_mode & 0o777 == 0o600 and len(list(tmp_path.iterdir())) == 1


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


def test_a_file_that_another_process_takes_for_a_left_one_before_it_is_locked_is_written_all_the_same(tmp_path, monkeypatch):
    locks, real = [], files._lock

    def late(descriptor):
        if not locks:
            for path in tmp_path.glob(".*.part"):
                files.remove_partial(path)
        locks.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    files.write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and len(locks) == 2 and [*tmp_path.iterdir()] == [tmp_path / "a.txt"]

"""A file is written completely or not at all, and an error names it."""
import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers.commands import ROOT

from medical_fenlei import files
from medical_fenlei.files import atomic, whole_folder, write_new

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


SWAPPING = """
import os, sys
from pathlib import Path
from medical_fenlei import files

exchange = files._exchange
def stopped(new, at):
    if sys.argv[2] == "after":
        exchange(new, at)
    os.kill(os.getpid(), 9)
files._exchange = stopped
with files.whole_folder(Path(sys.argv[1]), ("a", "b", "c")) as beside:
    for name in "ab":
        (beside / name).write_text("new")
"""


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(("moment", "left"), [("before", "old"), ("after", "new")])
def test_a_kill_leaves_the_old_folder_or_the_new_one_and_the_next_removes_the_rest(tmp_path, moment, left):
    folder, words = tmp_path / "20pct", {"old": {"a": "old", "c": "old"}, "new": {"a": "new", "b": "new"}}
    folder.mkdir()
    for name in "ac":
        (folder / name).write_text("old")
    killed = subprocess.run([sys.executable, "-c", SWAPPING, folder, moment],
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert killed.returncode == -signal.SIGKILL and content(folder) == words[left]
    assert len(list(tmp_path.iterdir())) == 2
    files._SWEPT.discard(str(tmp_path))
    with whole_folder(folder, ("a", "b", "c")) as beside:
        (beside / "a").write_text("newest")
    assert content(folder) == {"a": "newest"} and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("exchange", [True, False])
def test_what_others_put_into_a_folder_stays_and_an_error_changes_nothing(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "RENAME_EXCHANGE", 1 << 20)                           # which no system knows
    folder = tmp_path / "20pct"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes/mine.txt").write_text("mine")
    (folder / "test.csv").write_text("old")
    with pytest.raises(ValueError), whole_folder(folder, ("train.csv", "test.csv")) as beside:
        (beside / "train.csv").write_text("half")
        raise ValueError
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "test.csv"] and len(list(tmp_path.iterdir())) == 1
    with whole_folder(folder, ("train.csv", "test.csv")) as beside:
        (beside / "train.csv").write_text("new")
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "train.csv"] and len(list(tmp_path.iterdir())) == 1
    assert (folder / "notes/mine.txt").read_text() == "mine"


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

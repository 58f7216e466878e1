"""Of two processes in one place the second is refused, and told by whom, until the first has ended, however it did."""
import pytest
from helpers.locks import held

from medical_fenlei.errors import UserError
from medical_fenlei.exclusive import exclusive, in_turn, only_writer, only_writer_in
from medical_fenlei.runs import Run


def test_the_second_is_refused_in_one_line_that_says_who_until_the_first_has_died(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with held(lock) as process:
        with pytest.raises(UserError) as refused, exclusive(lock, busy="a place: is taken", remedy="wait"):
            pass
        line = str(refused.value)
        assert line.startswith(f"a place: is taken (process {process} on ") and line.endswith("; wait") and "\n" not in line
    with exclusive(lock, busy="", remedy=""):                    # killed: the file is there, the lock is not
        pass
    assert [path.name for path in lock.parent.iterdir()] == [".lock"]


def test_a_lock_ends_with_its_block_whatever_ends_the_block(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / ".lock", busy="", remedy=""):
        raise ZeroDivisionError
    with exclusive(tmp_path / ".lock", busy="", remedy=""), in_turn(tmp_path / ".other"):
        pass


def test_files_of_one_stem_have_one_writer_and_those_of_another_have_their_own(tmp_path):
    with only_writer("--out-csv", tmp_path / "a.csv"):
        with pytest.raises(UserError, match=r"--out-csv .*a\.csv: another process is writing it"), only_writer(
                "--out-csv", tmp_path / "a.csv"):
            pass
        with only_writer("--out-csv", tmp_path / "b.csv"), only_writer_in("--out-dir", tmp_path):
            pass


def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {Run.new(None, "ear2d").folder for _ in range(4)}
    assert len(folders) == 4 and all(folder.is_dir() for folder in folders)

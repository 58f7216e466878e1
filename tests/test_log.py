"""The log: from INFO on the terminal, warnings on standard error with their level, and both in the file of a run."""
import logging
import re
import subprocess
import sys

import pytest
from helpers.commands import ROOT

from medical_fenlei.log import FILE_ONLY, LOG, log_to_file, log_to_terminal


@pytest.fixture(autouse=True)
def restored():
    """Leaves the logger as an import of the package leaves it."""
    yield
    for handler in [*LOG.handlers]:
        LOG.removeHandler(handler)
        handler.close()
    LOG.setLevel(logging.NOTSET)
    LOG.propagate = True


def log_each_level():
    LOG.debug("detail")
    LOG.info("epoch %d", 1)
    LOG.warning("odd")
    LOG.error("wrong")


def test_information_goes_to_standard_output_and_warnings_to_standard_error_with_their_level(capsys):
    log_to_terminal()
    log_each_level()
    said = capsys.readouterr()
    assert said.out == "epoch 1\n" and said.err == "warning: odd\nerror: wrong\n"


def test_a_file_has_the_same_lines_with_the_time_of_each(tmp_path, capsys):
    log_to_file(tmp_path / "train.log")
    log_each_level()
    said = capsys.readouterr()
    assert said.out == "epoch 1\n" and said.err == "warning: odd\nerror: wrong\n"
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line.split(" ", 2)[2] for line in lines] == ["epoch 1", "warning: odd", "error: wrong"]


def test_a_lower_level_is_for_the_file_alone(tmp_path, capsys):
    log_to_file(tmp_path / "train.log", level=logging.DEBUG)
    log_each_level()
    assert "detail" in (tmp_path / "train.log").read_text() and "detail" not in capsys.readouterr().out


def test_a_record_for_the_file_is_not_shown(tmp_path, capsys):
    log_to_file(tmp_path / "train.log")
    LOG.error("seen anyway", extra=FILE_ONLY)
    assert "error: seen anyway" in (tmp_path / "train.log").read_text()
    assert capsys.readouterr() == ("", "")


def test_each_call_replaces_the_one_before(tmp_path, capsys):
    for name in ("one", "two"):
        log_to_file(tmp_path / f"{name}.log")
        LOG.info("for %s", name)
    log_to_terminal()
    LOG.info("for neither")
    assert capsys.readouterr().out == "for one\nfor two\nfor neither\n"
    assert "two" not in (tmp_path / "one.log").read_text() and "neither" not in (tmp_path / "two.log").read_text()


def test_text_that_is_not_ascii_is_utf8_in_the_file(tmp_path, capsys):
    log_to_file(tmp_path / "train.log")
    LOG.info("正常")
    assert (tmp_path / "train.log").read_bytes().endswith("正常\n".encode())


def test_a_program_that_only_imports_the_package_gets_warnings_through_python_s_own_logging():
    code = "from medical_fenlei.log import LOG; LOG.info('quiet'); LOG.warning('loud')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(ROOT / "src")})
    assert (said.stdout, said.stderr) == ("", "loud\n")

"""Command lines: exit statuses, errors in one line, shared flags and their former names."""
import argparse
import errno
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers.commands import ROOT, script

from medical_fenlei import cli, settings, tables
from medical_fenlei.config import DataConfig, RunConfig
from medical_fenlei.errors import CheckFailed, UserError
from medical_fenlei.log import LOG, log_to_file, log_to_terminal


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("error", "status"), [
    (UserError("x.csv: no such file"), 2), (CheckFailed("leak"), 1), (KeyboardInterrupt(), 75),
])
def test_an_error_becomes_one_line_and_a_status(error, status, capsys):
    assert cli.run(raising(error)) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("number", "says"), [
    (errno.EACCES, "name another place"), (errno.EROFS, "name another place"), (errno.EISDIR, "name another place"),
    (errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"),
])
def test_a_disk_that_takes_no_file_is_one_line_that_names_it(number, says, capsys):
    assert cli.run(raising(OSError(number, os.strerror(number), "artifacts/x.csv"))) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and f"artifacts/x.csv: {os.strerror(number)}; " in said and says in said


def test_another_error_of_the_system_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        cli.run(raising(FileNotFoundError(errno.ENOENT, "no such file", "x")))


def test_the_summary_lists_faults_first_then_what_is_harmless_and_names_the_file(tmp_path, capsys):
    log_to_terminal()
    rows = [{"exam_id": exam, "file": "f", "reason": reason, "detail": ""} for exam, reason in
            [("1", "localizer"), ("2", "localizer"), ("1", "not_dicom"), ("1", "not_dicom"), ("", "no_exam_id")]]
    rejects = tables.REJECTS.frame(rows)
    assert cli.report_rejects(rejects, tmp_path / "x.csv", faults=3, harmless={"localizer"}) == 3
    said = capsys.readouterr()
    assert [line.strip() for line in said.out.splitlines()] == [
        "2 left out: not_dicom (in 1 exam): remove it, or export the image again",
        "1 left out: no_exam_id: type the id, or clear the labels", "2 passed over: localizer"]
    assert said.err == f"warning: 3 could not be used; {tmp_path / 'x_rejects.csv'} says which and why\n"
    assert cli.report_rejects(rejects[:2], tmp_path / "x.csv", faults=0, harmless={"localizer"}) == 0
    assert f"{tmp_path / 'x_rejects.csv'} says which and why" in capsys.readouterr().out


def test_the_summary_calls_nothing_left_out_that_is_used(tmp_path, capsys):
    log_to_terminal()
    rows = [{"exam_id": "1", "file": "f", "reason": reason, "detail": ""}
            for reason in ("doubtful_values", "bad_pixels", "unknown_kernel")]
    harmless = {"unknown_kernel"}
    assert cli.report_rejects(tables.REJECTS.frame(rows), tmp_path / "x.csv", faults=2, harmless=harmless) == 3
    said = capsys.readouterr()
    assert [line.split(":")[0].strip() for line in said.out.splitlines()] == ["1 used, to be checked", "1 left out", "1 used"]
    assert "1 could not be used, 1 used, to be checked; " in said.err
    assert cli.report_rejects(tables.REJECTS.frame(rows[:1]), tmp_path / "x.csv") == 3
    assert capsys.readouterr().err.startswith("warning: 1 used, to be checked; ")


def test_a_stop_by_hand_says_what_to_do(capsys):
    assert cli.run(raising(KeyboardInterrupt())) == 75
    assert "run it again to go on" in capsys.readouterr().err


TELLING = """
import sys
from pathlib import Path
from medical_fenlei import cli
from medical_fenlei.log import LOG

def main():
    for _ in range(3):
        cli.say("found " * 1000)
        LOG.info("logged")
        cli.warn("doubtful")
    Path(sys.argv[1]).write_text("whole")
    if sys.argv[2] == "refuse":
        raise cli.UserError("x.csv: no such file")
    return cli.PARTLY

raise SystemExit(cli.run(main))
"""


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both", "full"])
@pytest.mark.parametrize(("end", "status"), [("finish", 3), ("refuse", 2)])
def test_status_and_files_are_the_same_whoever_reads_along(tmp_path, closed, end, status):
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") as full:
        streams = {"stdout": {"stdout": writing, "stderr": subprocess.PIPE}, "stderr": {"stderr": writing, "stdout": full},
                   "both": {"stdout": writing, "stderr": writing}, "full": {"stdout": full, "stderr": subprocess.PIPE}}[closed]
        done = subprocess.run([sys.executable, "-c", TELLING, tmp_path / "x.csv", end], text=True, **streams)
    os.close(writing)
    assert done.returncode == status and (tmp_path / "x.csv").read_text() == "whole"
    assert "Traceback" not in (done.stderr or "") and "Exception" not in (done.stderr or "")
    if closed == "full":
        assert done.stderr.count("standard output cannot be written (No space left on device)") == 1


def test_help_that_nobody_reads_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, ROOT / "scripts/train_ear2d.py", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_broken_pipe_to_a_worker_is_not_taken_for_success():
    with pytest.raises(BrokenPipeError):
        cli.run(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()))


def test_wrong_arguments_are_one_line_that_names_the_flag(capsys):
    parser = cli.parser("doc")
    cli.add_shared_flags(parser, "pct", "num_workers")
    for words in (["--pct", "many"], ["--num-workers", "-3"]):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(words)
        said = capsys.readouterr().err
        assert end.value.code == 2 and words[0] in said and len(said.splitlines()) == 1


def test_a_shared_flag_is_the_setting_of_a_run_with_its_help_default_and_check(capsys):
    parser = cli.parser("doc")
    cli.add_shared_flags(parser, "splits_root", "limit", "device", pct=100)
    found = parser.parse_args(["--limit", "3"])
    assert vars(found) == {"splits_root": DataConfig().splits_root, "limit": 3, "device": "auto", "pct": 100}
    help_of = {setting.name: setting.help for setting in settings.settings_of(DataConfig)}
    shown = " ".join(parser.format_help().split())
    assert f"{help_of['splits_root'].rstrip('.')} (default: artifacts/splits_dual)" in shown
    assert f"{help_of['pct'].rstrip('.')} (default: 100)" in shown
    with pytest.raises(SystemExit):
        parser.parse_args(["--limit", "0"])
    assert "--limit: got 0, expected at least 1" in capsys.readouterr().err


def test_no_flag_is_defined_both_as_a_setting_and_in_the_table_of_other_flags():
    assert not {setting.name for setting in settings.settings_of(RunConfig)} & set(cli.FLAGS)


NETWORK = ("--checkpoint", "best.pt")


@pytest.mark.parametrize(("name", "words", "given", "shown"), [
    ("fewshot_code4", ("--task", "x"), {"label_task": "x"}, True),
    ("fewshot_code4", ("--draws", "7"), {"resamples": 7}, False),
    ("eval_ear2d", (*NETWORK, "--draws", "7"), {"resamples": 7}, False),
    ("audit_run", (*NETWORK, "--draws", "7"), {"resamples": 7}, False),
    ("predict_dual", (*NETWORK, "--draws", "7"), {"resamples": 7}, False),
    ("compare_predictions", ("--predictions", "a", "b", "--draws", "7"), {"resamples": 7}, False),
    ("gradcam_ear2d", (*NETWORK, "--all", "--top", "3"), {"top_k": 3}, False),
    ("predict_ear2d", (*NETWORK, "--dicom", "d", "--out-dir", "o", "--top", "0"), {"top_k": 0}, False),
    ("predict_ear2d", (*NETWORK, "--dicom", "d", "--out", "o"), {"out_dir": Path("o")}, False),
    ("retrieve_neighbors_ear2d", (*NETWORK, "--split", "val", "--most", "3"), {"top_k": 3}, False),
    ("retrieve_neighbors_ear2d", (*NETWORK, "--split", "val", "--draws", "7"), {"resamples": 7}, False),
])
def test_a_former_name_of_a_flag_is_accepted(name, words, given, shown, monkeypatch):
    """shown: the help names it too."""
    parse, parsers = argparse.ArgumentParser.parse_args, []

    def parse_only(parser, argv):
        parsers.append(parser)
        raise Parsed(parse(parser, argv))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(Parsed) as parsed:
        script(name).main(list(words))
    found = vars(parsed.value.args[0])
    assert {key: found[key] for key in given} == given
    assert bool(re.search(rf"{words[-2]}\b(?!-)", parsers[0].format_help().replace(script(name).__doc__, ""))) == shown


class Parsed(Exception):
    """The flags of a script, in place of what it would do with them."""


def test_the_reason_that_a_command_ends_is_in_the_log_of_its_run_and_once_on_the_terminal(tmp_path, capsys):
    def ended_by(error):
        log_to_file(tmp_path / "train.log")
        LOG.info("epoch 1")
        cli.warn("odd")
        raise error

    for error, logged in ((UserError("x.csv: no such file"), "error: x.csv: no such file"),
                          (KeyboardInterrupt(), "stopped; what was finished is kept; run it again to go on")):
        assert cli.run(partial(ended_by, error)) in (2, 75)
        said = capsys.readouterr()
        assert said.out == "epoch 1\n" and said.err.splitlines()[0] == "warning: odd"
        assert len(said.err.splitlines()) == 2 and logged.removeprefix("error: ") in said.err
        lines = [line.split(" ", 2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
        assert lines[-3:] == ["epoch 1", "warning: odd", logged]
    with pytest.raises(ZeroDivisionError):
        cli.run(partial(ended_by, ZeroDivisionError("of Mr. Secret")))
    last = (tmp_path / "train.log").read_text().splitlines()[-1]
    assert "error: ZeroDivisionError" in last and "Secret" not in last


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    code = "import os, medical_fenlei.cli; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected

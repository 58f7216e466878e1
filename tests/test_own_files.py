"""A command writes nothing in its input, and removes or replaces only what it wrote itself."""
from pathlib import Path

import pytest
from helpers.commands import run

from medical_fenlei import cli
from medical_fenlei.errors import UserError
from medical_fenlei.own_files import OwnFiles, keep_apart
from medical_fenlei.runs import Run


@pytest.mark.parametrize(("output", "says"), [
    ("in", "is also"), ("in/out", "lies within"), ("in/../in/a", "lies within"), (".", "holds"), ("link", "is also"),
    ("link/out", "lies within"), ("up", "holds"), ("sheet.csv", "is also"), ("out", ""), ("in2", ""), ("sheet.csv2", ""),
])
def test_an_output_that_is_holds_or_lies_in_an_input_is_refused(tmp_path, monkeypatch, output, says):
    monkeypatch.chdir(tmp_path)
    for folder in ("in/a", "in2"):
        Path(folder).mkdir(parents=True)
    Path("sheet.csv").touch()
    Path("link").symlink_to("in")
    Path("up").symlink_to(tmp_path)
    inputs = {"--dicom": Path("in"), "--sheet": Path("sheet.csv"), "--absent": Path("none"), "--not-given": None}
    if not says:
        return keep_apart({"--out": Path(output), "--also": None}, inputs)
    with pytest.raises(UserError, match=f"--out {output}: {says} --"):
        keep_apart({"--out": Path(output)}, inputs)


@pytest.mark.parametrize("words", [
    ("build_index", "--dicom-base", "data", "--out-csv", "data/index.csv"),
    ("build_manifest_ears", "--index-csv", "i.csv", "--dicom-base", "data", "--out-csv", "i.csv"),
    ("build_cache_ears", "--dicom-base", "data", "--cache-dir", "data/cache"),
    ("train_ear2d", "--dicom-base", "data", "--output-dir", "data/run"),
    ("run_experiments_dual", "--dicom-base", "data", "--output-dir", "data"),
    ("predict_ear2d", "--dicom", "data/E1", "--checkpoint", "best.pt", "--out-dir", "data"),
    ("predict_dual", "--checkpoint", "best.pt", "--index-csv", "i.csv", "--out-csv", "i.csv"),
    ("compare_predictions", "--predictions", "i.csv", "data/E1/p.csv", "--out-dir", "data/E1/p.csv"),
])
def test_every_command_keeps_its_output_out_of_its_input(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    Path("data/E1").mkdir(parents=True)
    for file in ("i.csv", "data/E1/p.csv"):
        Path(file).write_text("input")
    before = sorted(tmp_path.rglob("*"))
    assert run(*words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "which is only read" in said[0], said
    assert sorted(tmp_path.rglob("*")) == before and Path("i.csv").read_text() == "input"


def test_every_flag_of_a_path_is_known_as_read_or_written_once():
    assert not set(cli.READ) & set(cli.WRITTEN)


def test_files_of_ones_own_are_removed_and_replaced_and_those_of_others_stay(tmp_path):
    own = OwnFiles(tmp_path, "--out-dir")
    own.claim("a.png", "b.png")
    for name in ("a.png", "c.png"):
        (tmp_path / name).touch()
    again = OwnFiles(tmp_path, "--out-dir")
    again.claim("a.png")
    with pytest.raises(UserError, match=r"holds c\.png, which this command did not write"):
        again.claim("a.png", "c.png")
    again.remove_files()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".written.json", "c.png"]


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": ["../outside", "/etc", 7]}'])
def test_a_list_that_somebody_changed_removes_nothing_outside_its_folder(tmp_path, content):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").touch()
    (tmp_path / "in/.written.json").write_text(content)
    OwnFiles(tmp_path / "in", "--out-dir").remove_files()
    assert (tmp_path / "outside").exists()


def test_a_new_run_replaces_no_file_of_others_and_a_start_that_failed_may_be_repeated(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds checkpoints, which this command did not write"):
        Run.new(tmp_path, "ear2d")
    (tmp_path / "checkpoints").rmdir()
    Run.new(tmp_path, "ear2d").train_log.touch()                 # killed now
    again = Run.new(tmp_path, "ear2d")
    again.discard()
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}
    (tmp_path / "notes.txt").unlink()
    again.discard()
    assert not tmp_path.exists()

"""What lies among the images and is neither file nor folder costs itself alone, and is named."""
import os
import socket
from pathlib import Path

import pytest

from medical_fenlei.dicom.stacks import series_files
from medical_fenlei.ingest.exam_files import list_exam
from medical_fenlei.ingest.tree import find_exams

EXAM = "2024-01-05/000123"
DEPTH = 1500
"""Folders within each other; more than Python's limit of recursion."""


@pytest.fixture
def base(tmp_path, monkeypatch):
    """An exam of two files, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / EXAM).mkdir(parents=True)
    for name in ("1", "2"):
        (tmp_path / EXAM / name).write_bytes(b"image")
    return tmp_path


def put_odd_entries(folder):
    """Put a link to itself, one to nothing, a pipe, a socket and a link to a device there; return the expected problems."""
    os.symlink("itself", folder / "itself")
    os.symlink("gone", folder / "nothing")
    os.symlink("/dev/null", folder / "device")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))       # a longer path would not fit
    return {"itself": "bad_link", "nothing": "bad_link", **dict.fromkeys(("device", "pipe", "socket"), "special_file")}


def test_odd_entries_in_an_exam_are_named_and_its_files_are_listed(base):
    odd = put_odd_entries(base / EXAM)
    found = list_exam(base, EXAM)
    assert found.files == 2 and found.folders == (EXAM,)
    assert {file.rpartition("/")[2]: reason for file, reason, _ in found.problems} == odd
    assert [path.name for path in series_files(base / EXAM)] == ["1", "2"]


@pytest.mark.parametrize("where", ["", "2024-01-05"])
def test_odd_entries_among_exams_are_named_and_the_exams_are_found(base, where):
    odd = put_odd_entries(base / where)
    tree = find_exams(base)
    assert [exam.relpath for exam in tree.exams] == [EXAM]
    assert {file.rpartition("/")[2]: reason for file, reason, _ in tree.problems} == odd


@pytest.mark.parametrize("above", ["", EXAM])
def test_folders_nested_deeper_than_python_recurses_are_listed(base, above):
    folders = [str(base / above)]
    try:
        for _ in range(DEPTH):
            folders.append(f"{folders[-1]}/d")
            os.mkdir(folders[-1])
        Path(folders[-1], "3").write_bytes(b"image")
        tree = find_exams(base)
        assert [exam.relpath for exam in tree.exams] == [EXAM]
        if above:
            assert list_exam(base, EXAM).files == 3
        else:
            assert [reason for _, reason, _ in tree.problems] == ["outside_exam"]
    finally:
        os.unlink(f"{folders[-1]}/3")
        for folder in folders[:0:-1]:
            os.rmdir(folder)

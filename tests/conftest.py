"""Fixtures that several rooms share, and a list of the checks that were left out, with what they need."""
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser

TOOLS = {"dciodvfy": "dicom3tools", "dcmdump": "dcmtk", "7z": "7zip", "chromium": "chromium"}
"""Debian packages by the command that some checks need."""


@pytest.fixture
def tool() -> Callable[..., str]:
    """Return the path of an external command, by any of its names; without it, skip the check."""
    def find(*names: str) -> str:
        path = next(filter(None, map(shutil.which, names)), None)
        if path is None:
            pytest.skip(f"needs {names[0]} (Debian package {TOOLS[names[0]]})")
        return path

    return find


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Callable[[Path], Path]:
    """Copy a folder that a module's tests share into a working folder of the test's own, and return that."""
    def copy(shared: Path) -> Path:
        shutil.copytree(shared, tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return copy


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """The folder of a small study with a trained network (`helpers/small_run.py`); tests work in copies of it."""
    from helpers.small_run import train_small_run  # imports torch

    folder = tmp_path_factory.mktemp("small_run")
    train_small_run(folder)
    return folder


@pytest.fixture
def browser(tool, tmp_path) -> Iterator[Browser]:
    """A headless Chromium with an empty profile; `errors` lists its requests to the network."""
    with Browser(tool("chromium", "chromium-browser", "google-chrome"), tmp_path / "profile") as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the checks that were left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("left out" if skipped else "nothing was left out")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason}")


@pytest.fixture
def here(hospital, tmp_path, monkeypatch):
    """A working folder with the test module's `hospital` in it, and a configuration folder of its own."""
    for name in ("data", "metadata"):
        (tmp_path / name).symlink_to(hospital / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path

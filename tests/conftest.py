"""What the test command says at its end: the checks that were left out, and what they need."""
import shutil
from collections.abc import Callable

import pytest

TOOLS = {"dciodvfy": "dicom3tools", "dcmdump": "dcmtk"}
"""Commands that some checks use, and Debian's package of each."""


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of an outside command; the check is left out, and named at the end, where it is not installed."""
    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"needs {name} (Debian package {TOOLS[name]})")
        return path

    return find


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("left out" if skipped else "nothing was left out")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason}")

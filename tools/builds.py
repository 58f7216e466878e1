"""This build beside that of another commit, each in processes of its own, so that both can be measured in turn."""
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medical_fenlei.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

_SERVE = """
import sys
from pathlib import Path
import {tool} as tool
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    print({work}, flush=True)
"""
"""Code of a process that works on each path that it reads."""


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, without touching this one. Raises UserError if there is no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        made = subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, commit], capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"--against {commit}: {made.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True, capture_output=True)


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which Python imports package and tools from this checkout."""
    return {**os.environ, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree / 'tools'}"}


class Worker:
    """A process of one build that works on a path whenever it is asked."""

    def __init__(self, tree: Path, tool: str, work: str) -> None:
        """Start the process.

        tree: checkout of the build; tool: a module of its tools; work: an expression of `tool` and `path` that gives a number.
        """
        code = _SERVE.format(tool=tool, work=work)
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment(tree), text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self, path: Path) -> float:
        """Return the number for a path. Raises UserError if the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError("a process of the other build ended: its tools differ too much from those of this one")
        return float(answer)

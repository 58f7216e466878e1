"""Run a script as its command line would, in this process."""
import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from medical_fenlei import cli

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Commands work in this folder, with a configuration folder of their own in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield patch


def run(name: str, *words: object) -> int:
    """The exit status of `python scripts/<name>.py <words>`."""
    def main() -> int:
        try:
            return script(name).main([str(word) for word in words])
        except SystemExit as end:                                # argparse leaves this way
            return int(end.code or 0)

    return cli.run(main)

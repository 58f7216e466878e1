"""Scripts run as from the command line, in this process."""
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
def script(name: str, folder: str = "scripts") -> ModuleType:
    """Return the module of `scripts/<name>.py`, or of another folder, such as `tools`."""
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Run commands in this folder, with a configuration folder of its own; yields a MonkeyPatch that ends with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield patch


def run(name: str, *words: object) -> int:
    """Run `python scripts/<name>.py <words>`; return its exit status."""
    def main() -> int:
        try:
            return script(name).main([str(word) for word in words])
        except SystemExit as end:                                # argparse leaves this way
            return int(end.code or 0)

    return cli.run(main)

"""The rooms and the direction of their imports (docs/architecture.md)."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "medical_fenlei"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

BOTTOM = {"vocabulary", "tasks", "errors", "files", "settings", "tables", "runs", "parallel", "cli"}
MAY_IMPORT = {
    "dicom": set(), "metrics": set(), "models": {"training.config"}, "phantom": {"dicom"},
    "ears": {"dicom"}, "ingest": {"dicom"},
    "data": {"ears.store", "ears.spec", "ears.build", "training.config"},
    "training": {"ears.spec", "data", "models", "metrics"},
    "analysis": {"dicom", "ears", "ingest", "data", "models", "metrics", "training"},
    "report": {"ears.store", "ingest", "analysis", "metrics", "training.config"},
    "experiments": {"ears", "data", "models", "metrics", "training", "analysis", "report"},
}
"""Beyond the bottom room and itself. `training.config` and `ears.spec` are settings: they import nothing but the bottom."""


def imports(path: Path) -> set[str]:
    """Names below medical_fenlei that a file imports, as `room` or `room.module`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[1:3]) for name in found if name.startswith("medical_fenlei.")}


def rooms() -> list[str]:
    return sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file())


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_stands_below_it(room):
    allowed = MAY_IMPORT[room] | BOTTOM | {room}
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            assert name in allowed or name.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_bottom_room_imports_no_other():
    for path in PACKAGE.glob("*.py"):
        assert {n.split(".")[0] for n in imports(path)} <= BOTTOM | {"__version__"}, path.name


def test_no_script_imports_another():
    names = {path.stem for path in SCRIPTS}
    for path in SCRIPTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tops = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        tops |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not tops & (names | {"scripts"}), path.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_shows_an_example_without_importing_torch(script):
    said = subprocess.run([sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert f"python scripts/{script.name}" in said.stdout
    assert not {"torch", "timm", "sklearn", "monai"} & {line.split("|")[-1].strip() for line in said.stderr.splitlines()}

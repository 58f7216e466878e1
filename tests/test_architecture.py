"""The rooms and the direction of their imports are those of the table in docs/architecture.md."""
import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "medical_fenlei"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
ROW = re.compile(r"^\| `(\w+)` \| .+ \| (.+) \|$", re.MULTILINE)


def table() -> dict[str, set[str]]:
    """Return the rooms that each room may import beyond itself and the modules beside the rooms, in the order of the docs."""
    rows = ROW.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    return {"bottom": set(), **{room: set() if names == "–" else set(names.split(", ")) for room, names in rows}}


MAY_IMPORT = table()


def room_of(module: str) -> str:
    """`evaluation` for `evaluation.compare`, `bottom` for a module beside the rooms."""
    first = module.split(".")[0]
    return "commands" if first == "cli" else first if (PACKAGE / first).is_dir() else "bottom"


@functools.cache
def modules() -> dict[str, Path]:
    """Every module by its name below the package; a room's own `__init__` by the name of the room."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


@functools.cache
def imports(path: Path) -> set[str]:
    """The modules below medical_fenlei that a file imports, wherever in the file it does."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            own = name.removeprefix("medical_fenlei.") if name.startswith("medical_fenlei.") else ""
            while own and own not in known:
                own = own.rpartition(".")[0]
            found |= {own} - {""}
    return found


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in modules()} == set(MAY_IMPORT)


def test_a_room_stands_above_all_that_it_imports():
    """So no circle of rooms is possible, and the table is one."""
    order = list(MAY_IMPORT)
    for room, allowed in MAY_IMPORT.items():
        assert all(order.index(below) < order.index(room) for below in allowed), room


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_the_table_says_and_all_of_it(room):
    used = set()
    for module, path in modules().items():
        if room_of(module) == room:
            used |= {room_of(name) for name in imports(path)} - {room, "bottom"}
    assert used == MAY_IMPORT[room]


def test_no_file_imports_itself_through_others():
    graph = {module: set(imports(path)) - {module} for module, path in modules().items()}
    for room in (module for module in graph if (PACKAGE / module.replace(".", "/")).is_dir()):
        graph[room] -= {module for module in graph if module.startswith(f"{room}.")}     # an interface of its own files
        for module in graph:
            if module.startswith(f"{room}."):
                assert room not in graph[module], f"{module} imports its own room's interface"
    while graph:
        free = [module for module, below in graph.items() if not below & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for module in free:
            del graph[module]


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

"""The shape of the code in figures: rooms, sizes, long functions, long signatures, docstrings, names that occur twice.

    python tools/code_figures.py
    python tools/code_figures.py --list                     # also names each case
    python tools/code_figures.py --root ../another_checkout

A room is a folder of the package with modules in it; the modules beside the rooms are the bottom.
"""
import argparse
import ast
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONG_FUNCTION, MANY_PARAMETERS, LONG_MODULE = 60, 8, 300
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Definition(NamedTuple):
    """A public class or function of a module, or a public method."""

    room: str
    module: str
    """Below the package: `evaluation/measure.py`."""

    name: str
    """`Class.method` for a method."""

    node: ast.ClassDef | Function


def room_of(module: Path) -> str:
    """`evaluation` for `evaluation/measure.py`; `bottom` for a module beside the rooms."""
    return module.parts[0] if len(module.parts) > 1 else "bottom"


def definitions(package: Path) -> Iterator[Definition]:
    """Every class, function and method of the package, private ones too."""
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | Function):
                yield Definition(room_of(module), str(module), node.name, node)
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function):
                        yield Definition(room_of(module), str(module), f"{node.name}.{member.name}", member)


def parameters(node: Function) -> int:
    """How many parameters a function takes, without self and cls."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")]) + bool(node.args.vararg) + bool(node.args.kwarg)


def is_public(definition: Definition) -> bool:
    """Neither the name, nor the class it belongs to, begins with an underscore."""
    return not any(part.startswith("_") for part in definition.name.split("."))


def same_named(found: list[Definition]) -> dict[str, list[str]]:
    """Public names at the top of modules that occur more than once, with the modules they occur in."""
    places: dict[str, list[str]] = defaultdict(list)
    for each in found:
        if is_public(each) and "." not in each.name:
            places[each.name].append(each.module)
    return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}


def figures(package: Path) -> list[tuple[str, str, list[str]]]:
    """Rows of (what, figure, the cases behind it)."""
    lengths = {str(p.relative_to(package)): len(p.read_text(encoding="utf-8").splitlines())
               for p in sorted(package.rglob("*.py"))}
    modules = {name: n for name, n in lengths.items() if Path(name).name != "__init__.py"}
    rooms = Counter[str]()
    for name, n in modules.items():
        rooms[room_of(Path(name))] += n
    largest, most = rooms.most_common(1)[0]
    found = list(definitions(package))
    functions = [each for each in found if isinstance(each.node, Function)]
    long = [f"{f.module} {f.name}: {n}" for f in functions
            if (n := (f.node.end_lineno or 0) - f.node.lineno + 1) > LONG_FUNCTION]
    many = [f"{f.module} {f.name}: {parameters(f.node)}" for f in functions
            if isinstance(f.node, Function) and parameters(f.node) > MANY_PARAMETERS]
    public = [each for each in found if is_public(each)]
    bare = [f"{d.module} {d.name}" for d in public if not ast.get_docstring(d.node)]
    twice = same_named(found)
    of = [f"{d.module} {d.name}" for d in found if (ast.get_docstring(d.node) or "").startswith("Of ")]
    too_long = [f"{name}: {n}" for name, n in modules.items() if n > LONG_MODULE]
    longest = max(modules, key=lambda name: modules[name])
    return [
        ("rooms", str(len(rooms)), [f"{room}: {n} lines" for room, n in rooms.most_common()]),
        ("largest room's share of lines", f"{most / sum(rooms.values()):.0%} ({largest})", []),
        ("modules", str(len(modules)), []),
        ("median module, lines", f"{statistics.median(modules.values()):g}", []),
        ("longest module, lines", f"{modules[longest]} ({longest})", []),
        (f"modules over {LONG_MODULE} lines", str(len(too_long)), too_long),
        (f"functions over {LONG_FUNCTION} lines", str(len(long)), long),
        (f"functions with more than {MANY_PARAMETERS} parameters", str(len(many)), many),
        ("public definitions with a docstring", f"{1 - len(bare) / len(public):.1%} of {len(public)}", bare),
        ('docstrings that begin with "Of"', str(len(of)), of),
        ("public names that occur in several modules", str(len(twice)),
         [f"{name}: {', '.join(places)}" for name, places in twice.items()]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="a checkout (default: this one)")
    parser.add_argument("--list", action="store_true", help="name the cases behind each figure")
    args = parser.parse_args()
    for what, figure, cases in figures(args.root / "src" / "medical_fenlei"):
        print(f"{what:45s} {figure}")
        for case in cases if args.list else ():
            print(f"    {case}")


if __name__ == "__main__":
    main()

"""Figures of the code's structure: rooms, sizes, long functions, long signatures, docstrings, names that occur twice.

    python tools/code_figures.py
    python tools/code_figures.py --list                     # also list the cases behind each figure
    python tools/code_figures.py --root ../another_checkout

A room is a folder of the package; the modules beside the rooms are the bottom.
"""
import argparse
import ast
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 300, 60, 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Definition(NamedTuple):
    """A class or function at the top of a module, or a method."""

    module: Path
    """Path below the package, as `evaluation/evaluate.py`."""

    name: str
    """Its name, or `Class.method`."""

    node: ast.ClassDef | Function

    @property
    def public(self) -> bool:
        """Whether neither its name nor that of its class begins with an underscore."""
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def docstring(self) -> str:
        """The docstring, empty if there is none."""
        return ast.get_docstring(self.node) or ""

    @property
    def lines(self) -> int:
        """Number of lines from the signature to the end."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def parameters(self) -> int:
        """Number of parameters of a function without `self` and `cls`; 0 for a class."""
        if isinstance(self.node, ast.ClassDef):
            return 0
        arguments = self.node.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")]) + bool(arguments.vararg) + bool(arguments.kwarg)

    def __str__(self) -> str:
        return f"{self.module} {self.name}"


class Figure(NamedTuple):
    """One figure of the table."""

    name: str
    value: str
    cases: list[str]
    """The cases that it counts."""


class Code:
    """The modules and definitions of a package."""

    def __init__(self, package: Path) -> None:
        self.lines: dict[Path, int] = {}
        self.definitions: list[Definition] = []
        for path in sorted(package.rglob("*.py")):
            module, text = path.relative_to(package), path.read_text(encoding="utf-8")
            if path.name != "__init__.py":
                self.lines[module] = len(text.splitlines())
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef | Function):
                    self.definitions.append(Definition(module, node.name, node))
                if isinstance(node, ast.ClassDef):
                    self.definitions += [Definition(module, f"{node.name}.{member.name}", member) for member in node.body
                                         if isinstance(member, Function)]

    def rooms(self) -> Counter[str]:
        """Return the lines of each room."""
        found = Counter[str]()
        for module, lines in self.lines.items():
            found[module.parts[0] if len(module.parts) > 1 else "bottom"] += lines
        return found

    def long_modules(self) -> list[str]:
        """Return the modules of more than MAX_MODULE_LINES lines."""
        return [f"{module}: {lines}" for module, lines in self.lines.items() if lines > MAX_MODULE_LINES]

    def long_functions(self) -> list[str]:
        """Return the functions of more than MAX_FUNCTION_LINES lines, docstring and signature included."""
        return [f"{each}: {each.lines}" for each in self.definitions
                if isinstance(each.node, Function) and each.lines > MAX_FUNCTION_LINES]

    def long_signatures(self) -> list[str]:
        """Return the functions with more than MAX_PARAMETERS parameters."""
        return [f"{each}: {each.parameters}" for each in self.definitions if each.parameters > MAX_PARAMETERS]

    def public(self) -> list[Definition]:
        """Return the public classes, functions and methods."""
        return [each for each in self.definitions if each.public]

    def undocumented(self) -> list[str]:
        """Return the public definitions without a docstring."""
        return [str(each) for each in self.public() if not each.docstring]

    def incomplete_sentences(self) -> list[str]:
        """Return the definitions whose docstring begins with "Of"."""
        return [str(each) for each in self.definitions if each.docstring.startswith("Of ")]

    def duplicate_names(self) -> list[str]:
        """Return the public names of classes and functions that several modules define."""
        modules: dict[str, list[str]] = defaultdict(list)
        for each in self.public():
            if "." not in each.name:
                modules[each.name].append(str(each.module))
        return [f"{name}: {', '.join(places)}" for name, places in sorted(modules.items()) if len(places) > 1]

    def figures(self) -> list[Figure]:
        """Return the rows of the table."""
        rooms = self.rooms()
        largest, lines = rooms.most_common(1)[0]
        longest = max(self.lines, key=lambda module: self.lines[module])
        public, undocumented = self.public(), self.undocumented()
        return [
            Figure("rooms", str(len(rooms)), [f"{room}: {count} lines" for room, count in rooms.most_common()]),
            Figure("largest room's share of lines", f"{lines / rooms.total():.0%} ({largest})", []),
            Figure("modules", str(len(self.lines)), []),
            Figure("median module, lines", f"{statistics.median(self.lines.values()):g}", []),
            Figure("longest module, lines", f"{self.lines[longest]} ({longest})", []),
            _count(f"modules over {MAX_MODULE_LINES} lines", self.long_modules()),
            _count(f"functions over {MAX_FUNCTION_LINES} lines", self.long_functions()),
            _count(f"functions with more than {MAX_PARAMETERS} parameters", self.long_signatures()),
            Figure("public definitions with a docstring", f"{1 - len(undocumented) / len(public):.1%} of {len(public)}",
                   undocumented),
            _count('docstrings that begin with "Of"', self.incomplete_sentences()),
            _count("public names that occur in several modules", self.duplicate_names()),
        ]


def _count(name: str, cases: list[str]) -> Figure:
    """A figure that is the number of its cases."""
    return Figure(name, str(len(cases)), cases)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1],
                        help="root of a checkout (default: this one)")
    parser.add_argument("--list", action="store_true", help="list the cases behind each figure")
    args = parser.parse_args()
    for figure in Code(args.root / "src" / "medical_fenlei").figures():
        print(f"{figure.name:45s} {figure.value}")
        for case in figure.cases if args.list else ():
            print(f"    {case}")


if __name__ == "__main__":
    main()

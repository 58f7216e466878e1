"""The code stays within limits: size of modules and functions, length of signatures, docstrings, unique names."""
import importlib.util

import pytest
from helpers.commands import ROOT


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("code_figures", ROOT / "tools" / "code_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def code(figures):
    return figures.Code(ROOT / "src" / "medical_fenlei")


def test_no_module_is_long(code):
    assert code.long_modules() == []


def test_no_function_is_long(code):
    assert code.long_functions() == []


def test_no_function_has_many_parameters(code):
    assert code.long_signatures() == []


def test_no_two_modules_define_the_same_public_name(code):
    assert code.duplicate_names() == []


def test_nearly_every_public_definition_has_a_docstring(code):
    undocumented = code.undocumented()
    assert len(undocumented) <= 0.05 * len(code.public()), undocumented


def test_no_docstring_begins_with_a_fragment(code):
    assert code.incomplete_sentences() == []


def test_the_figures_count_a_small_package(figures, tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text('"""A room."""\n')
    long = "\n".join(f"    {letter} = 0" for letter in "x" * 60)
    (room / "one.py").write_text(f'class Ear:\n    """Of an ear."""\n\n    def cut(self, {", ".join("abcdefghi")}): ...\n\n\n'
                                 f"def _long():\n{long}\n")
    (tmp_path / "two.py").write_text('def Ear(*args, **kwargs):\n    """Return an ear."""\n' + "\n" * 300)
    code = figures.Code(tmp_path)
    assert code.rooms() == {"room": 67, "bottom": 302}
    assert code.long_modules() == ["two.py: 302"] and code.long_functions() == ["room/one.py _long: 61"]
    assert code.long_signatures() == ["room/one.py Ear.cut: 9"] == [f"{name}: 9" for name in code.undocumented()]
    assert code.duplicate_names() == ["Ear: room/one.py, two.py"] and code.incomplete_sentences() == ["room/one.py Ear"]

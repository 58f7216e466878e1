"""Documents in two languages say the same: the same commands, headings, tables and links to files that exist."""
import re

import pytest
from helpers.commands import ROOT

PAIRS = sorted(path for path in (ROOT / "docs").glob("*.md") if path.with_suffix("").with_suffix(".zh-CN.md").exists()
               and ".zh-CN" not in path.name)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def text(path):
    return path.read_text(encoding="utf-8")


def commands(path):
    """The lines of all code blocks without their comments."""
    blocks = re.findall(r"```\w*\n(.*?)```", text(path), re.S)
    lines = [re.sub(r"\s+#.*|^#[^S].*", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"<.*", "", line) for line in lines if line]


def shape(path):
    """The levels of the headings, and the number of cells of each row of a table, in order."""
    prose = re.sub(r"```.*?```", "", text(path), flags=re.S)
    lines = (line for line in prose.splitlines() if re.match(r"#+ |\|", line))
    return [line.split(" ")[0] if line.startswith("#") else line.count("|") for line in lines]


def code(path):
    """Words in code type in tables and text, however often they occur."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text(path), flags=re.S)))


def chinese(path):
    return path.with_name(f"{path.stem}.zh-CN.md")


def test_the_documents_that_a_user_needs_are_there_in_chinese():
    assert {"SETUP", "TASK", "evaluation", "your-data"} <= {path.stem for path in PAIRS}
    readme = text(ROOT / "README.zh-CN.md")
    assert all(f"docs/{chinese(path).name}" in readme for path in PAIRS)


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_both_languages_have_the_same_commands_headings_and_tables(path):
    assert commands(chinese(path)) == commands(path)
    assert shape(chinese(path)) == shape(path)
    ascii_only = {word for word in code(path) if word.isascii() and " " not in word and "<" not in word}
    assert ascii_only - code(chinese(path)) == set()


def anchor(heading):
    """The anchor that GitHub gives to a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", text(path)):
        if re.match(r"https?:", target):
            continue
        file, _, heading = target.partition("#")
        at = (path.parent / file) if file else path
        assert at.exists(), target
        if heading:
            assert heading in {anchor(line.lstrip("# ")) for line in text(at).splitlines() if line.startswith("#")}, target

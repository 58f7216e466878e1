"""The table of reasons holds every code in the source, and no other; the docs show it as it is."""
import ast
import itertools
import re
from pathlib import Path

import medical_fenlei
from medical_fenlei.new_exams import remarks
from medical_fenlei.reasons import HARMLESS, REASONS, markdown_rows, remedy

PACKAGE = Path(medical_fenlei.__file__).parent
DOCS = (PACKAGE.parents[1] / "docs" / "artifacts.md").read_text(encoding="utf-8")
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FIRST = {"Rejected", "UnreadableCell"}
"""Calls whose first argument is a code."""
THIRD = {"reject", "add", "Reject"}
"""Calls whose third argument is a code."""
NO_REASON = {"chosen"}
"""A verdict on a series that is no reason to leave it out."""

TREES = {path: ast.parse(path.read_text(encoding="utf-8"))
         for path in sorted(PACKAGE.rglob("*.py")) if path.name != "reasons.py" and path.parent.name != "tables"}
NAMED: dict[str, str] = {}
"""Constants of modules that hold a text, by name."""
for tree in TREES.values():
    for node in (node for node in tree.body if isinstance(node, ast.Assign)):
        names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        NAMED |= {name.id: value.value for name, value in zip(names, values, strict=False)
                  if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str)}


def texts(node):
    """The texts that an expression may be: a constant, a name of one, or a choice of two."""
    match node:
        case ast.Constant(value=str(text)) if CODE.fullmatch(text):
            return {text}
        case ast.Name(id=name) if CODE.fullmatch(NAMED.get(name, "")):
            return {NAMED[name]}
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body) | texts(orelse)
    return set()


def is_sentence(node):
    """Whether an expression holds words, as the detail of a reason does."""
    return any(isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and " " in str(part.value))
               for part in ast.walk(node))


def codes(tree, room):
    """Reason codes in a module, wherever one is made: a call, a row of rejects, or a code with its detail."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
                found |= texts(args[0]) if name in FIRST and args else set()
                found |= texts(args[2]) if name in THIRD and len(args) > 3 else set()
                found |= set().union(*(texts(keyword.value) for keyword in keywords if keyword.arg == "reason"))
            case ast.Dict(keys=keys, values=values):
                found |= set().union(*(texts(value) for key, value in zip(keys, values, strict=True)
                                       if isinstance(key, ast.Constant) and key.value == "reason"))
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="problems") | ast.Name(id="problems"), attr="append"),
                          args=[ast.Tuple(elts=[_, code, _])]):
                found |= texts(code)
            case ast.Call(args=parts) | ast.Tuple(elts=parts) if room == "ingest":
                found |= set().union(*(texts(code) for code, detail in itertools.pairwise(parts)
                                       if isinstance(code, ast.Constant) and is_sentence(detail)))
    return found


def codes_by_module():
    return {path: codes(tree, path.relative_to(PACKAGE).parts[0]) for path, tree in TREES.items()}


def test_every_code_in_the_source_is_in_the_table():
    missing = {str(path.relative_to(PACKAGE)): found - set(REASONS) - NO_REASON for path, found in codes_by_module().items()}
    assert not {path: found for path, found in missing.items() if found}


def test_every_code_of_the_table_is_in_the_source():
    """As a text of its own: also where a code goes through variables before it becomes a reason."""
    found = {node.value for tree in TREES.values() for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not set(REASONS) - found


def test_the_collection_finds_codes_of_every_kind():
    found = set().union(*codes_by_module().values())
    assert {"not_ct", "disk_full", "damaged_entry", "check_failed", "formula_without_value", "no_exam_id", "bad_name",
            "not_unpacked", "single_ear", "no_series", "copies", "unparsable_date", "hidden_folder", "too_few_slices"} <= found


def test_a_reason_is_keyed_by_its_code_and_says_what_to_do_where_it_is_a_fault():
    assert all(code == reason.code and CODE.fullmatch(code) and reason.meaning for code, reason in REASONS.items())
    assert [reason.code for reason in REASONS.values() if reason.is_fault and not reason.remedy] == ["not_a_file"]
    assert {"localizer", "copies", "unparsable_date"} <= HARMLESS and not {"no_series", "not_dicom"} & HARMLESS
    assert remedy("encrypted") == "pack it again without one" and not remedy("localizer") and not remedy("no_such_code")


def test_the_docs_show_the_table():
    section = DOCS[DOCS.index("## Reasons for rejects"):]
    assert [line for line in section.splitlines() if line.startswith("|")] == markdown_rows(), "run tools/write_reasons.py"


def test_the_sentences_on_new_exams_are_about_known_reasons():
    assert {*remarks.SERIES_REASONS, *remarks.FILE_PROBLEMS} <= set(REASONS)


def test_every_remark_on_a_new_exam_is_in_the_docs():
    section = DOCS[DOCS.index("## Answers for new exams"):DOCS.index("## Exit statuses")]
    told = {text for tree in TREES.values() for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Remark"
            for keyword in node.keywords if keyword.arg == "code" for text in texts(keyword.value)}
    assert len(told) > 10 and not {code for code in told if f"`{code}`" not in section}

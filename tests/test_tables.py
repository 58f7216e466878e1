"""CSV tables: what is written is read again, and a cell that is not allowed is named."""
import os

import numpy as np
import pandas as pd
import pytest

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.tables import schema


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


def test_exam_ids_keep_their_leading_zeros(path):
    frame = tables.CACHE_INDEX.frame([{"exam_id": "000123", "side": "left", "file": "a.npy", "sha256": "0e1"}])
    tables.CACHE_INDEX.write(path, frame)
    assert tables.CACHE_INDEX.read(path).equals(frame)


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-3", "@x", "'=1", "''-", "plain", "'plain", "检查, \"所见\"\nsecond"])
def test_text_that_a_spreadsheet_would_run_is_escaped_and_comes_back(path, text):
    frame = tables.REJECTS.frame([{"exam_id": "1", "file": "f", "reason": "r", "detail": text}])
    tables.REJECTS.write(path, frame)
    assert tables.REJECTS.read(path).detail[0] == text
    cells = path.read_text().split("\n", 1)[1].replace('"', ",").split(",")
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


@pytest.mark.parametrize("text", ["H70\rsharp", "\r", "a\r\nb", "'\r", "a,\"b\"\r"])
def test_a_carriage_return_in_a_cell_ends_no_row(path, text):
    rows = [{"exam_id": exam, "file": text, "reason": "r", "detail": detail} for exam, detail in (("1", text), ("2", ""))]
    frame = tables.REJECTS.frame(rows)
    tables.REJECTS.write(path, frame)
    assert tables.REJECTS.read(path).equals(frame)


@pytest.mark.parametrize(("number", "z", "shown"), [
    (47, -12.46, "image 47 (z -12.5 mm)"), (None, 3.0, "z 3.0 mm"), (3, None, "image 3"), (None, None, "")])
def test_an_image_is_named_by_what_is_known_of_it(number, z, shown):
    assert str(tables.SourceImage(number, z)) == shown


def test_the_images_of_a_cache_of_an_earlier_version_are_unknown():
    assert tables.source_images({}, 2) == (tables.SourceImage(None, None),) * 2
    facts = {"slice_images": [4, None], "slice_z_mm": [1.0, 2.0]}
    assert tables.source_images(facts, 2) == (tables.SourceImage(4, 1.0), tables.SourceImage(None, 2.0))


def test_an_empty_table_keeps_its_columns(path):
    tables.MANIFEST.write(path, tables.MANIFEST.empty())
    assert list(tables.MANIFEST.read(path).columns) == list(tables.MANIFEST.columns)


@pytest.mark.parametrize(("row", "says"), [
    ("1,left,../x.npy,s", "'file', row 2: got '../x.npy'"), ("1,left,/etc/passwd,s", "'file', row 2"),
    ("1,middle,x.npy,s", "'side', row 2: got 'middle', it must be left or right"), (",left,x.npy,s", "'exam_id', row 2"),
    ("1,left,x.npy,s\n1,left,y.npy,s", "more than one row for exam_id 1, side left"),
])
def test_a_cell_that_is_not_allowed_is_named(path, row, says):
    path.write_text(f"exam_id,side,file,sha256\n{row}\n")
    with pytest.raises(UserError) as error:
        tables.CACHE_INDEX.read(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_column_or_binary_rubbish_is_one_line(path):
    with pytest.raises(UserError, match="no such file"):
        tables.INDEX.read(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="column 'exam_id' is missing"):
        tables.INDEX.read(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"table\.csv"):
        tables.INDEX.read(path)


@pytest.mark.parametrize(("value", "says"), [
    ("", "'n_instances': row 3: got '', expected a whole number"), ("64.5", "row 3: got '64.5', expected a whole number"),
    ("many", "row 3: got 'many'"), ("inf", "row 3: got 'inf'"),
])
def test_an_invalid_number_is_named_with_its_row(path, value, says):
    path.write_text(f"exam_id,n_instances\n1,64\n2,{value}\n")
    counted = tables.Table("counted", {"exam_id": "key", "n_instances": "int"})
    with pytest.raises(UserError) as error:
        counted.read(path)
    assert says in str(error.value)


@pytest.mark.parametrize("null", [None, np.nan, pd.NA], ids=repr)
@pytest.mark.parametrize("kind", ["text", "key", "relpath", "side"])
def test_a_null_in_a_column_of_texts_is_refused_with_its_row(path, kind, null):
    texts = tables.Table("texts", {"exam_id": "key", "words": kind})
    with pytest.raises(UserError) as error:
        texts.write(path, pd.DataFrame({"exam_id": ["1", "2", "3"], "words": ["left", "right", null]}))
    said = str(error.value)
    assert said.startswith(f"{path}: column 'words', row 4: got ") and said.endswith(", it must not be null (texts)")
    assert not path.exists()


def test_a_table_with_other_delimiters_says_so(path):
    path.write_text("exam_id;side;file;sha256\n1;left;x.npy;s\n")
    with pytest.raises(UserError, match="separated by ';', expected commas"):
        tables.CACHE_INDEX.read(path)


@pytest.fixture
def opened(monkeypatch):
    """The files that were read."""
    read, found = schema.pd.read_csv, []
    monkeypatch.setattr(schema.pd, "read_csv", lambda path, **options: found.append(path) or read(path, **options))
    return found


def test_a_table_that_has_not_changed_is_read_once_and_what_a_reader_does_to_it_stays_his_own(path, opened, monkeypatch):
    monkeypatch.setattr(schema, "SETTLED_SECONDS", -1)
    frame = tables.CACHE_INDEX.frame([{"exam_id": "1", "side": "left", "file": "a.npy", "sha256": "0"}])
    tables.CACHE_INDEX.write(path, frame)
    mine = tables.CACHE_INDEX.read(path)
    mine.loc[0, "side"] = "right"
    mine["more"] = 1
    monkeypatch.chdir(path.parent)
    assert tables.CACHE_INDEX.read(type(path)(path.name)).equals(frame) and len(opened) == 1
    times = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("left", "LEFT"))
    os.utime(path, ns=(times, times))                            # of the same size and time
    with pytest.raises(UserError, match="got 'LEFT'"):
        tables.CACHE_INDEX.read(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        tables.CACHE_INDEX.read(path)


def test_a_table_is_known_by_its_kind_too_and_only_a_few_are_kept(path, monkeypatch):
    monkeypatch.setattr(schema, "SETTLED_SECONDS", -1)
    for number in range(schema.MOST_READ + 3):
        tables.CACHE_INDEX.write(path.with_name(str(number)), tables.CACHE_INDEX.empty())
        tables.CACHE_INDEX.read(path.with_name(str(number)))
    assert len(schema._READ) == schema.MOST_READ
    with pytest.raises(UserError, match="is missing"):
        tables.INDEX.read(path.with_name(str(schema.MOST_READ + 2)))


def test_a_table_that_has_just_been_changed_is_read_again(path, opened):
    tables.CACHE_INDEX.write(path, tables.CACHE_INDEX.empty())
    tables.CACHE_INDEX.read(path), tables.CACHE_INDEX.read(path)
    assert len(opened) == 2

"""Files of embeddings come back as they were written, or are refused in one line."""
import numpy as np
import pytest
from helpers.commands import run
from helpers.small_embeddings import draw, with_changes

from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.errors import UserError


def test_embeddings_come_back_from_their_file(tmp_path):
    ears = draw(17, 5, 2)
    loose = {name: getattr(ears, name).astype(object) for name in ("exam_id", "side", "patient_key")}    # as pandas has them
    with_changes(ears, embedding=ears.embedding.astype(float), **loose).write(tmp_path / "some.npz")
    again = Embeddings.read(tmp_path / "some.npz")
    for name, array in vars(ears).items():
        assert getattr(again, name).dtype.kind == array.dtype.kind and (getattr(again, name) == array).all()
    assert again.embedding.dtype == np.float32 and again.label_code.dtype == np.int8


def spoilt(tmp_path, **arrays):
    ears = draw(0, 4, 2)
    content = {name: np.asarray(getattr(ears, name)) for name in vars(ears)} | arrays
    np.savez(tmp_path / "bad.npz", **{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(("arrays", "says"), [
    ({"patient_key": None}, "has no 'patient_key'"),
    ({"embedding": np.zeros((8, 3))}, "expected float32 (N, D)"),
    ({"embedding": np.full((8, 3), np.nan, np.float32)}, "not finite"),
    ({"embedding": np.zeros((8, 0), np.float32)}, "expected float32 (N, D)"),
    ({"label_code": np.zeros(7, np.int8)}, "label_code: got (7,)"),
    ({"label_code": np.int8(4)}, "label_code: got ()"),
    ({"label_code": np.full(8, 4.0)}, "label_code: got float64"),
    ({"patient_key": np.array([""] * 8)}, "patient_key: must not be empty"),
    ({"side": np.array(["left", "middle"] * 4)}, "left or right"),
    ({"label_code": np.full(8, 9, np.int8)}, "0 to 6"),
    ({"side": np.array(["left"] * 8)}, "holds an ear twice"),
    ({"exam_id": np.arange(8)}, "expected text"),
    ({"exam_id": np.array([{"pickled": True}] * 8, dtype=object)}, "is not a file of embeddings"),
])
def test_a_file_that_is_not_embeddings_is_refused_in_one_line(tmp_path, capsys, arrays, says):
    spoilt(tmp_path, **arrays)
    draw(1, 4, 2).write(tmp_path / "good.npz")
    assert run("fewshot_code4", "--train-npz", tmp_path / "bad.npz", "--val-npz", tmp_path / "good.npz") == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_a_damaged_file_is_refused_or_read_and_never_a_traceback(tmp_path):
    path = tmp_path / "some.npz"
    draw(1, 4, 2).write(path)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(600):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            Embeddings.read(path)
        except UserError:
            refused += 1
    assert refused > 300

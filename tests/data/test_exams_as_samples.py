"""Both ears of an exam are one sample: left first, an absent ear marked, and each label beside its ear."""
import numpy as np
import pandas as pd
import pytest

from medical_fenlei.config import EarSpec
from medical_fenlei.data.dataset import ABSENT, EarDataset, group_by_exam
from medical_fenlei.ears.store import EarStore

SPEC = EarSpec(num_slices=3, image_size=8)


def table(*ears, start=0):
    """Manifest rows of `exam side`, numbered 0, 1, ... from `start`."""
    rows = [dict(zip(("exam_id", "side"), ear.split(), strict=True)) for ear in ears]
    return pd.DataFrame(rows, index=start + np.arange(len(rows)), columns=["exam_id", "side"])


def by_hand(ears):
    """(left, right) places of each exam, exams as they first appear."""
    found = {}
    for place, (exam, side) in enumerate(zip(ears.exam_id, ears.side, strict=True)):
        found.setdefault(exam, [ABSENT, ABSENT])[0 if side == "left" else 1] = place
    return list(found.values())


@pytest.mark.parametrize(("ears", "groups"), [
    (("b left", "b right", "a left", "a right"), [[0, 1], [2, 3]]),
    (("b right", "b left", "a right", "a left"), [[1, 0], [3, 2]]),
    (("c right", "a left", "c left", "a right", "b left"), [[2, 0], [1, 3], [4, ABSENT]]),
    (("7 right",), [[ABSENT, 0]]),
    (("010 left", "10 right", "0010 right"), [[0, ABSENT], [ABSENT, 1], [ABSENT, 2]]),
], ids=["left_first", "right_first", "mixed", "one_ear", "ids_are_text"])
def test_left_comes_first_and_exams_keep_the_order_of_their_first_ears(ears, groups):
    found = group_by_exam(table(*ears, start=40))
    assert found.tolist() == groups and found.dtype == np.int64


def test_any_table_is_grouped_as_by_hand():
    rng = np.random.default_rng(0)
    everyone = [f"{exam:03d} {side}" for exam in range(40) for side in ("left", "right")]
    for size in (1, 7, 40, 80):
        ears = table(*rng.permutation(everyone)[:size])
        assert group_by_exam(ears).tolist() == by_hand(ears)


def test_without_ears_there_are_no_exams():
    assert group_by_exam(table()).shape == (0, 2)


@pytest.fixture
def stored(tmp_path):
    """A store of five ears of three exams, in mixed order; ear n holds 100 (n + 1) everywhere."""
    ears = table("y right", "x left", "z left", "y left", "z right", start=10).assign(label_code=[1, 2, 3, 4, 5])
    store = EarStore(tmp_path, SPEC)
    for n, (exam, side) in enumerate(zip(ears.exam_id, ears.side, strict=True)):
        store.write(exam, side, np.full(SPEC.shape, 100 * (n + 1), np.int16), {})
    return store, ears


def test_a_sample_is_named_by_its_first_ear_and_keeps_each_side_in_its_place(stored):
    store, ears = stored
    batch = EarDataset(store, ears, group_by_exam(ears)).batch(np.arange(3))
    assert batch.volume.shape == (3, 2, *SPEC.shape)
    assert batch.volume[..., 0, 0, 0].tolist() == [[400, 100], [200, 0], [300, 500]]
    assert batch.code.tolist() == [[4, 1], [2, 0], [3, 5]] and batch.present.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert batch.row.tolist() == [13, 11, 12]

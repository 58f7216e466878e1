"""Samples of ears, alone or by exam: the same batches wherever the ears are stored, and each label beside its ear."""
import numpy as np
import pandas as pd
import pytest
import torch

from medical_fenlei.config import EarSpec
from medical_fenlei.data.batching import split_into_batches
from medical_fenlei.data.dataset import ABSENT, EarDataset
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import SIDES, Side

SPEC = EarSpec(num_slices=3, image_size=8)
EXAMS = 6
CPU = torch.device("cpu")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def stored(tmp_path):
    """A store of 12 ears, their manifest rows (index from 100), their volumes in that order."""
    store, generator, rows = EarStore(tmp_path, SPEC), rng(2), []
    volumes = generator.integers(-1000, 3000, (EXAMS, 2, 3, 8, 8)).astype(np.int16)
    for exam in range(EXAMS):
        for e, side in enumerate(SIDES):
            store.write(f"x{exam}", side, volumes[exam, e], {})
            rows.append({"exam_id": f"x{exam}", "side": str(side), "label_code": (2 * exam + e) % 7})
    return store, pd.DataFrame(rows, index=100 + 3 * np.arange(2 * EXAMS)), volumes.reshape(-1, 3, 8, 8)


@pytest.fixture(params=["device", "memory", "disk"])
def on(request):
    return Placement(request.param, CPU, readers=3, nbytes=0)


def test_a_sample_is_its_ear_with_its_code_and_its_row(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, placement=on)
    batch = found.batch(np.array([7, 0, 7, 11]))
    assert len(found) == 12 and found.shape == (3, 8, 8)
    np.testing.assert_array_equal(batch.volume[:, 0], volumes[[7, 0, 7, 11]])
    assert batch.volume.shape == (4, 1, 3, 8, 8) and batch.volume.dtype == torch.int16
    assert batch.code.tolist() == [[0], [0], [0], [4]] and batch.code.dtype == torch.int8
    assert batch.present.all() and batch.present.dtype == torch.bool
    assert batch.row.tolist() == [121, 100, 121, 133] and batch.row.dtype == torch.int64


def test_an_absent_ear_is_zero_has_no_label_and_is_not_present(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, [[0, 1], [ABSENT, 9], [4, ABSENT], [2, 3]], on)
    batch = found.batch(np.array([1, 0, 2]))
    assert batch.present.tolist() == [[False, True], [True, True], [True, False]]
    assert not batch.volume[0, 0].any() and not batch.volume[2, 1].any()
    np.testing.assert_array_equal(batch.volume[batch.present], volumes[[9, 0, 1, 4]])
    assert batch.code.tolist() == [[0, 2], [0, 1], [4, 0]]
    assert batch.row.tolist() == [127, 100, 112]                                       # of the first ear that is there
    assert found.ears_in_order.index.tolist() == [100, 103, 127, 112, 106, 109]


def test_batches_come_in_order_with_every_sample(stored, on):
    store, ears, volumes = stored
    order = rng(3).permutation(np.tile(np.arange(12), 5))
    for size in (1, 5, 60):
        found = list(EarDataset(store, ears, placement=on).batches(split_into_batches(order, size), CPU))
        assert len(found) == -(-60 // size)
        np.testing.assert_array_equal(torch.cat([batch.volume[:, 0] for batch in found]), volumes[order])
        assert torch.cat([batch.row for batch in found]).tolist() == ears.index[order].tolist()


def test_changing_a_batch_does_not_change_the_dataset(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, placement=on)
    found.batch(np.arange(12)).volume.zero_()
    found.batch(np.array([3])).code.zero_()
    again = found.batch(np.arange(12))
    np.testing.assert_array_equal(again.volume[:, 0], volumes)
    assert again.code[3].item() == 3


def test_iteration_can_stop_early_and_passes_on_an_error(stored, on):
    store, ears, _ = stored
    found = EarDataset(store, ears, placement=on)
    feed = found.batches(split_into_batches(np.arange(12), 2), CPU)
    assert next(feed).row.tolist() == [100, 103]
    feed.close()
    with pytest.raises(IndexError):
        list(found.batches([np.array([0]), np.array([99])], CPU))


def test_an_ear_that_the_cache_lacks_or_holds_in_another_size_is_refused(stored, on):
    store, ears, _ = stored
    with pytest.raises(UserError, match=r"x9_left\.npy"):
        EarDataset(store, pd.concat([ears, pd.DataFrame([{"exam_id": "x9", "side": "left", "label_code": 1}])]), placement=on)
    store.write("x0", Side.LEFT, np.zeros((3, 8, 9), np.int16), {})
    with pytest.raises(UserError, match=r"x0_left\.npy.*expected int16 \(3, 8, 8\)"):
        EarDataset(store, ears, placement=on)


@pytest.mark.parametrize("groups", [[[0, 12]], [[ABSENT, ABSENT]], [[0, 1], [ABSENT, ABSENT]]])
def test_groups_without_an_ear_are_refused(stored, groups):
    store, ears, _ = stored
    with pytest.raises(ValueError, match="groups"):
        EarDataset(store, ears, groups)

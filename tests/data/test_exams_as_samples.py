"""Both ears of an exam as one sample: who stands beside whom, what is missing, what the network gets to see."""
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_study import codes_in_turn, write_study
from torch import nn

from medical_fenlei.config import AugmentConfig, DataConfig, EarSpec
from medical_fenlei.data.dataset import ABSENT, EarDataset, group_by_exam
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.models.network import NetworkOutput
from medical_fenlei.tasks import find_task
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.predict import infer

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
def test_left_stands_first_and_exams_come_as_they_first_appear(ears, groups):
    found = group_by_exam(table(*ears, start=40))
    assert found.tolist() == groups and found.dtype == np.int64


def test_any_table_is_grouped_as_by_hand():
    rng = np.random.default_rng(0)
    everyone = [f"{exam:03d} {side}" for exam in range(40) for side in ("left", "right")]
    for size in (1, 7, 40, 80):
        ears = table(*rng.permutation(everyone)[:size])
        assert group_by_exam(ears).tolist() == by_hand(ears)


def test_no_ears_make_no_exams():
    assert group_by_exam(table()).shape == (0, 2)


@pytest.fixture
def stored(tmp_path):
    """A store of five ears of three exams, in mixed order; ear n holds 100 (n + 1) everywhere."""
    ears = table("y right", "x left", "z left", "y left", "z right", start=10).assign(label_code=[1, 2, 3, 4, 5])
    store = EarStore(tmp_path, SPEC)
    for n, (exam, side) in enumerate(zip(ears.exam_id, ears.side, strict=True)):
        store.write(exam, side, np.full(SPEC.shape, 100 * (n + 1), np.int16), {})
    return store, ears


class Recording(nn.Module):
    """A network that keeps what it is shown; the logit is the ear's mean."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, volume):
        self.seen.append(volume)
        mean = volume.mean((1, 2, 3, 4))[:, None]
        return NetworkOutput(mean, mean, None)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_absent_ear_never_reaches_the_network_and_answers_stand_beside_their_ears(stored, batch_size):
    store, ears = stored
    dataset, model = EarDataset(store, ears, group_by_exam(ears)), Recording()
    found = infer(model, dataset, augment=AugmentConfig(wl=0, ww=2000), batch_size=batch_size,
                  compute=ComputeSettings(torch.device("cpu"), torch.float32))
    assert len(dataset) == 3 and sum(len(volume) for volume in model.seen) == 5
    assert not any((volume == 0).all((1, 2, 3, 4)).any() for volume in model.seen)               # HU 0 fills an absent ear
    order = dataset.ears_in_order
    assert order.index.tolist() == [13, 10, 11, 12, 14]                                          # y both, x left, z both
    np.testing.assert_allclose(found.logits[:, 0], (order.index.to_numpy() - 9) * 0.1, atol=1e-6)


def test_a_sample_is_named_by_its_first_ear_and_keeps_each_side_in_its_place(stored):
    store, ears = stored
    batch = EarDataset(store, ears, group_by_exam(ears)).batch(np.arange(3))
    assert batch.volume.shape == (3, 2, *SPEC.shape)
    assert batch.volume[..., 0, 0, 0].tolist() == [[400, 100], [200, 0], [300, 500]]
    assert batch.code.tolist() == [[4, 1], [2, 0], [3, 5]] and batch.present.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert batch.row.tolist() == [13, 11, 12]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four exams to train on, the second without a left ear, the third with one unlabelled; two to tune."""
    monkeypatch.chdir(tmp_path)
    train = {"a": (5, 1), "b": (None, 2), "c": (0, 5), "d": (1, 1)}
    tune = codes_in_turn("xy")
    return write_study(tmp_path, {"train": train, "tune": tune}, EarSpec(num_slices=2, image_size=8))


def found_ears(store, *, task="six_class", sample="exam", limit=None):
    data = DataConfig(sample=sample, pct=100, limit=limit)
    return find_ears(data, store, task and [find_task(task)], ("train", "tune"))


@pytest.mark.parametrize(("limit", "exams", "ears"), [
    (None, "abcd", 6), (1, "a", 2), (2, "ab", 3), (3, "abc", 4), (9, "abcd", 6),
])
def test_limit_counts_exams_on_the_dual_route(study, limit, exams, ears):
    sources = found_ears(study, limit=limit)
    assert sorted(set(sources.ears["train"].exam_id)) == list(exams) and len(sources.ears["train"]) == ears
    dataset = sources.dataset(study, "train")
    assert len(dataset) == len(exams) and dataset.present.sum() == ears
    assert len(sources.dataset(study, "tune")) == min(limit or 2, 2)


def test_limit_counts_exams_on_the_ear_route_too(study):
    sources = found_ears(study, sample="ear", limit=2)
    dataset = sources.dataset(study, "train")
    assert len(dataset) == 3 and dataset.batch(np.arange(3)).volume.shape[:2] == (3, 1)
    assert sources.ears["train"].exam_id.tolist() == ["a", "a", "b"]


def test_limit_counts_exams_that_the_task_concerns(study):
    sources = found_ears(study, task="cholesteatoma_vs_csoma", limit=2)
    assert sources.ears["train"].exam_id.tolist() == ["a", "b"]                                  # a: right only, c: not at all
    dataset = sources.dataset(study, "train")
    assert dataset.present.tolist() == [[False, True], [False, True]] and dataset.code.tolist() == [[0, 1], [0, 2]]


def test_without_a_task_every_labelled_ear_comes(study):
    sources = found_ears(study, task=None)
    assert sources.dataset(study, "train").present.tolist() == [[True, True], [False, True], [False, True], [True, True]]

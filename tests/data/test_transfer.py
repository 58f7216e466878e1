"""The transfer of batches to a GPU: the order of the calls on any machine, the batches themselves where there is a GPU."""
import collections
import threading
import time

import numpy as np
import pytest
import torch
from helpers.stored_ears import GPU, MODES, needs_gpu, storage_of, store_ears

from medical_fenlei.config import EarSpec
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.storage import Placement
from medical_fenlei.data.transfer import prefetch
from medical_fenlei.data.wait_timer import WaitTimer


@pytest.fixture
def stored(tmp_path):
    return store_ears(tmp_path, spec=EarSpec(num_slices=3, image_size=8), count=20)


def test_one_batch_is_prepared_while_another_is_used_and_not_more(stored):
    made, go_on = [], threading.Event()

    def items():
        for n in range(5):
            made.append(n)
            if n == 1:
                go_on.set()
            yield n

    feed = prefetch(items())
    assert next(feed) == 0 and go_on.wait(10)
    time.sleep(0.05)
    assert made == [0, 1]
    assert list(feed) == [1, 2, 3, 4]


class Recorded:
    """Streams and events that note what is done, in which order."""

    def __init__(self):
        self.log = []

    def stream(self, name):
        recorded = self

        class Stream:
            def record_event(self, event=None):
                recorded.log.append(("record", name))
                return f"event {recorded.log.count(('record', name))} of {name}"

            def wait_event(self, event):
                recorded.log.append(("wait", name, event))

        return Stream()


@pytest.fixture
def no_gpu(monkeypatch):
    """A GPU of host memory: `torch.cuda` notes its calls."""
    recorded = Recorded()
    side, network = recorded.stream("copying"), recorded.stream("network")
    inside = threading.local()

    class Enter:
        def __init__(self, stream):
            assert stream is side

        def __enter__(self):
            inside.copying = True

        def __exit__(self, *_):
            inside.copying = False

    def copy_(self, source, non_blocking=False):
        assert inside.copying and non_blocking
        recorded.log.append(("copy", "copying"))
        self.numpy()[:] = source.numpy()

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", Enter)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: network)
    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    monkeypatch.setattr(torch.Tensor, "record_stream",
                        lambda self, stream: recorded.log.append(("keep", "network" if stream is network else "other")))
    monkeypatch.setattr(torch, "empty", lambda *args, device=None, pin_memory=False, **kw: empty(*args, **kw))
    return recorded.log


@pytest.mark.parametrize("on", ["memory", "disk"])
def test_a_batch_for_a_gpu_is_copied_once_waited_for_and_kept_until_it_was_used(stored, no_gpu, on):
    cuts = [np.array([3, 1]), np.array([0, 19]), np.array([7, 7])]
    found = list(storage_of(on, stored).batches(cuts, GPU))
    for batch, numbers in zip(found, cuts, strict=True):
        np.testing.assert_array_equal(batch, stored[2][numbers])
    assert collections.Counter(entry[:2] for entry in no_gpu) == {
        ("copy", "copying"): 6, ("record", "copying"): 3, ("wait", "network"): 3, ("keep", "network"): 3}
    waits = [entry for entry in no_gpu if entry[0] in ("wait", "keep")]
    assert waits == [step for n in (1, 2, 3) for step in (("wait", "network", f"event {n} of copying"), ("keep", "network"))]
    copies = [entry[0] for entry in no_gpu if entry[1] == "copying"]
    assert copies == ["copy", "copy", "record"] * 3                              # an event after the copies it stands for


@needs_gpu
@pytest.mark.parametrize("on", MODES)
def test_on_a_gpu_a_batch_is_right_even_if_the_network_is_slow_and_releases_it_at_once(tmp_path, on):
    store, ears, volumes = store_ears(tmp_path, spec=EarSpec(num_slices=16, image_size=96), count=40)
    cuts = [np.random.default_rng(n).integers(0, len(ears), 8) for n in range(60)]
    sums = []
    dataset = EarDataset(store, ears, placement=Placement(on, GPU, 4, 0))
    waiting = WaitTimer(GPU)
    for batch in waiting.timed(dataset.batches(cuts, GPU)):
        torch.cuda._sleep(2_000_000)                                                     # the host runs far ahead
        sums.append(batch.ears.long().mul_(torch.arange(1, batch.ears.numel() + 1, device=GPU).view_as(batch.ears)).sum())
        del batch
    for numbers, found in zip(cuts, torch.stack(sums).tolist(), strict=True):
        picked = volumes[numbers].astype(np.int64)
        assert found == int((picked * np.arange(1, picked.size + 1).reshape(picked.shape)).sum())
    assert 0 <= waiting.seconds < 10

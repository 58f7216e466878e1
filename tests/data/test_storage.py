"""Ears on the device, in memory or on disk: the same batches, in the fastest place that they fit, or an error says why."""
import gc
import math
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_study import codes_in_turn, write_study
from helpers.stored_ears import CPU, GPU, MODES, needs_gpu, storage_of, store_ears

from medical_fenlei.config import DataConfig, EarSpec
from medical_fenlei.data import storage, transfer
from medical_fenlei.data.batching import split_into_batches
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import find_ears
from medical_fenlei.data.storage import DeviceStorage, DiskStorage, MemoryStorage, Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import Side

GB = 10**9


# Where the ears fit

@pytest.fixture
def room(monkeypatch):
    """Sets how much is free on the GPU and on the host, bytes."""
    def free(gpu, host):
        monkeypatch.setattr(storage, "free_device_memory", lambda device: gpu if device.type == "cuda" else host)
        monkeypatch.setattr(storage, "free_memory", lambda: host)
    return free


def place(on, device, ears=1000):
    """A thousand ears of 4 MB, 4 GB."""
    return Placement.choose(DataConfig(data_on=on), EarStore(Path("nowhere"), EarSpec(num_slices=20, image_size=316)), device,
                            ears=ears)


NBYTES = 2 * 20 * 316 * 316 * 1000


@pytest.mark.parametrize(("gpu", "host", "device", "found"), [
    (2 * NBYTES, 4 * NBYTES, GPU, "device"), (2 * NBYTES, 0, GPU, "device"), (2 * NBYTES - 1, 4 * NBYTES, GPU, "memory"),
    (2 * NBYTES - 1, 4 * NBYTES - 1, GPU, "disk"), (0, 0, GPU, "disk"),
    (99 * NBYTES, 4 * NBYTES, CPU, "memory"), (99 * NBYTES, 4 * NBYTES - 1, CPU, "disk"),
])
def test_auto_prefers_the_device_then_memory_then_disk_within_their_share_of_free_space(room, gpu, host, device, found):
    assert (storage.DEVICE_SHARE, storage.MEMORY_SHARE) == (0.5, 0.25)
    room(gpu, host)
    where = place("auto", device)
    assert where.on == found and where.nbytes == NBYTES


@pytest.mark.parametrize(("on", "device", "gpu", "host"), [
    ("device", GPU, NBYTES - 1, 9 * NBYTES), ("device", CPU, 0, NBYTES - 1), ("memory", GPU, 9 * NBYTES, NBYTES - 1),
])
def test_a_requested_place_that_is_too_small_is_one_line_with_the_needed_and_the_free_space(room, on, device, gpu, host):
    room(gpu, host)
    with pytest.raises(UserError) as error:
        place(on, device)
    text = str(error.value)
    assert re.match(rf"--data-on {on}: 1000 ears take 4\.0 GB, 4\.0 GB are free", text) and "\n" not in text
    room(gpu + 1, host + 1)
    assert place(on, device).on == on                                                    # asked for: no share is kept free
    assert place("disk", device).on == "disk"


def test_all_sets_of_a_run_count_together(tmp_path, room, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = {"train": codes_in_turn("abcdefg"), "tune": {**codes_in_turn("xy", seed=1), "exam_z": (5, None)}}
    store = write_study(tmp_path, sets, EarSpec(num_slices=4, image_size=32, extent="half"))
    data = DataConfig(sample="exam", pct=100, label_task="six_class")
    sources = find_ears(data, store, None, ("train", "tune"))
    ears = sum(map(len, sources.ears.values()))
    assert sources.placement(store, CPU).nbytes == ears * 2 * 4 * 32 * 32 and len(sources.ears["tune"]) == 5
    room(0, 4 * ears * 2 * 4 * 32 * 32 - 1)
    assert sources.placement(store, CPU).on == "disk"                                    # the training set alone would fit


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_reader_are_refused(workers):
    with pytest.raises(ValueError, match="read-workers"):
        DataConfig(read_workers=workers)


# A storage

@pytest.fixture
def stored(tmp_path):
    return store_ears(tmp_path, spec=EarSpec(num_slices=3, image_size=8), count=20)


@pytest.mark.parametrize("on", MODES)
def test_batches_of_any_sizes_come_in_order_and_none_gives_none(stored, on):
    rng = np.random.default_rng(1)
    for sizes in ((), (1,), (1, 1, 1, 1, 1, 1, 1, 1, 1), (20, 3, 7)):
        for readers in (1, 2, 16):
            cuts = [rng.integers(0, 20, size) for size in sizes]
            found = list(storage_of(on, stored, readers).batches(cuts, CPU))
            assert [len(batch) for batch in found] == list(sizes)
            for batch, numbers in zip(found, cuts, strict=True):
                assert batch.dtype == torch.int16
                np.testing.assert_array_equal(batch, stored[2][numbers])


@pytest.mark.parametrize("on", MODES)
def test_no_thread_is_left_when_iteration_ends_is_stopped_or_fails(stored, on):
    before, ears = set(threading.enumerate()), storage_of(on, stored)
    cuts = [np.arange(4)] * 30
    list(ears.batches(cuts, CPU))
    stopped = ears.batches(cuts, CPU)
    next(stopped)
    stopped.close()
    ears.batches(cuts, CPU).close()                                                         # before it began
    with pytest.raises(IndexError):
        list(ears.batches([np.arange(4), np.array([99]), np.arange(4)], CPU))
    assert set(threading.enumerate()) == before


def test_the_device_storage_on_a_cpu_works_without_a_thread(stored, monkeypatch):
    ears = storage_of("device", stored)
    for module in (storage, transfer):
        monkeypatch.setattr(module, "ThreadPoolExecutor", None)
    assert len(list(ears.batches([np.arange(3)] * 2, CPU))) == 2


def test_readers_stay_few_batches_ahead(stored, monkeypatch):
    read, done = DiskStorage.read, []
    monkeypatch.setattr(DiskStorage, "read", lambda self, ear, into: (read(self, ear, into), done.append(ear)))
    feed = storage_of("disk", stored, readers=2).batches([np.arange(5)] * 10, CPU)
    next(feed)
    time.sleep(0.1)
    assert len(done) == 5 * (1 + storage.PREFETCHED)
    feed.close()


def test_a_file_that_is_cut_short_or_gone_while_training_is_one_line(stored):
    ears, (store, _, _) = storage_of("disk", stored), stored
    path = store.folder / "x7_left.npy"
    os.truncate(path, 200)
    with pytest.raises(UserError, match=r"x7_left\.npy: was cut short"):
        list(ears.batches(split_into_batches(np.arange(20), 4), CPU))
    path.unlink()
    with pytest.raises(UserError, match=r"x7_left\.npy: cannot be read any more"):
        list(ears.batches(split_into_batches(np.arange(20), 4), CPU))
    assert len(list(ears.batches([np.arange(7)], CPU))) == 1


def test_an_ear_that_is_cut_anew_while_a_run_reads_from_disk_ends_the_run(stored):
    store, ears = stored[0], storage_of("disk", stored)
    volume = np.array(store.read("x3", Side.LEFT))
    store.write("x3", Side.LEFT, volume[:, ::-1], {})
    next(ears.batches([np.arange(3)], CPU))
    with pytest.raises(UserError, match=r"x3_left\.npy: was cut anew while it was in use"):
        next(ears.batches([np.arange(2, 5)], CPU))


def test_an_array_in_fortran_order_is_refused(stored):
    store = stored[0]
    np.save(store.folder / "x3_left.npy", np.asfortranarray(stored[2][3]))
    with pytest.raises(UserError, match=r"x3_left\.npy.*in Fortran order"):
        storage_of("disk", stored)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("on", ["device", "memory"])
def test_a_set_is_loaded_without_a_second_copy_of_it(tmp_path, on):
    spec, count = EarSpec(num_slices=32, image_size=128), 64                             # 67 MB
    store = EarStore(tmp_path, spec)
    for n in range(count):
        store.write(f"x{n}", Side.LEFT, np.full(spec.shape, n, np.int16), {})
    ears = pd.DataFrame([{"exam_id": f"x{n}", "side": "left", "label_code": 1} for n in range(count)])
    size = count * 2 * math.prod(spec.shape)

    def resident(name):
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")                                        # the peak starts anew
    before = resident("VmRSS")
    found = EarDataset(store, ears, placement=Placement(on, CPU, 4, size))
    grown = resident("VmHWM") - before
    assert found.batch(np.array([count - 1])).volume.max() == count - 1
    assert grown < 1.25 * size


@needs_gpu
def test_on_a_gpu_the_array_in_memory_is_pinned_as_long_as_it_lives(stored):
    found = storage_of("memory", stored, device=GPU)
    array = found.ears
    assert isinstance(found, MemoryStorage) and torch.from_numpy(array).is_pinned()
    del found
    gc.collect()
    assert not torch.from_numpy(array).is_pinned()
    assert isinstance(storage_of("device", stored, device=GPU), DeviceStorage)

"""Wherever the ears of a run live, it learns and predicts the same; they live where they fit, or an error says why not."""
import collections
import gc
import math
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study

from medical_fenlei.config import DataConfig, EarSpec
from medical_fenlei.data import storage, transfer
from medical_fenlei.data.batching import split_into_batches
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import find_ears
from medical_fenlei.data.storage import DeviceStorage, DiskStorage, MemoryStorage, Placement
from medical_fenlei.data.transfer import prefetch
from medical_fenlei.data.wait_timer import WaitTimer
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import open_network
from medical_fenlei.vocabulary import Side

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODES = ("device", "memory", "disk")
GB = 10**9
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


# One run, three kinds of storage

FIT = ("--pct", 100, "--epochs", 2, "--batch-size", 4, "--backbone", "test_resnet", "--lr", 1e-3, "--cache-dir", CACHE,
       "--early-stop-metric", "accuracy", "--device", "cpu", "--precision", "fp32", "--read-workers", 2)
ROUTES = {"ear2d": ("train_ear2d", "--label-task", "normal_vs_abnormal"),
          "dual": ("train_dual", "--model", "dual_slice_attention", "--label-task", "six_class")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Ten exams to train on, of which two lack an ear and one a label; three to tune, of which one lacks an ear."""
    folder = tmp_path_factory.mktemp("study")
    train = {**codes_in_turn("abcdefg"), "exam_h": (None, 2), "exam_i": (5, None), "exam_j": (0, 5)}
    tune = {**codes_in_turn("xy", seed=1), "exam_z": (5, None)}
    write_study(folder, {"train": train, "tune": tune}, EarSpec(num_slices=4, image_size=32, extent="half"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module", params=ROUTES)
def runs(study, request):
    """The route, and its run with the ears in each of the three places."""
    command, *words = ROUTES[request.param]
    folders = {on: study / f"outputs/{request.param}_{on}" for on in MODES}
    for on, folder in folders.items():
        assert run(command, *words, *FIT, "--data-on", on, "--output-dir", folder) == 0
    return request.param, folders


def test_two_epochs_give_the_same_weights_and_numbers_to_the_last_bit(runs):
    kind, folders = runs
    found = {on: open_network(folder / "checkpoints/last.pt", kind=kind, device="cpu") for on, folder in folders.items()}
    lines = {on: [{k: v for k, v in line.items() if k not in ("seconds", "ears_per_s", "waited", "memory_gb")}
                  for line in Run(folder).read_metrics()] for on, folder in folders.items()}
    weights = found["disk"].checkpoint.weights
    assert len(lines["disk"]) == 2 and lines["disk"][0]["train_loss"] != lines["disk"][1]["train_loss"]
    for on in ("device", "memory"):
        other = found[on].checkpoint.weights
        assert other.keys() == weights.keys() and all(torch.equal(other[name], weights[name]) for name in weights), on
        assert repr(lines[on]) == repr(lines["disk"]), on                                            # repr: NaN is NaN


def test_predictions_are_the_same_to_the_last_bit(runs):
    kind, folders = runs
    trained = open_network(folders["disk"] / "checkpoints/last.pt", kind=kind, device="cpu")
    frames, vectors = [], []
    for on in MODES:
        data = replace(trained.config.data, data_on=on)
        store = trained.store(data)
        sources = find_ears(data, store, trained.tasks, ("train", "tune"))
        dataset = sources.dataset(store, "train", sources.placement(store, CPU))
        assert dataset.placement.on == on and len(dataset.ears_in_order) > 12
        frames += trained.predict(dataset).values()
        vectors.append(trained.infer(dataset, batch_size=3).embedding)
    for frame, vector in zip(frames[1:], vectors[1:], strict=True):
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)
        np.testing.assert_array_equal(vector, vectors[0])


def test_the_log_says_where_the_ears_live_and_how_many_gigabytes_they_are(runs):
    _, folders = runs
    words = {"device": "on cpu", "memory": "in memory", "disk": "on disk, 2 readers"}
    for on, folder in folders.items():
        assert f"0.00 GB of ears {words[on]}" in next(folder.glob("*.log")).read_text(encoding="utf-8"), on


@pytest.mark.parametrize("runs", ["ear2d"], indirect=True)
def test_commands_on_a_trained_network_may_put_the_ears_elsewhere(runs, study, monkeypatch):
    _, folders = runs
    chosen, choose = [], Placement.choose
    monkeypatch.setattr(Placement, "choose", lambda *args, **kw: chosen.append(choose(*args, **kw)) or chosen[-1])
    common = ("--checkpoint", folders["disk"] / "checkpoints/last.pt", "--device", "cpu")
    assert run("extract_embeddings_ear2d", *common, "--out-npz", study / "e.npz") == 0
    assert run("extract_embeddings_ear2d", *common, "--out-npz", study / "e.npz", "--data-on", "memory") == 0
    assert run("eval_ear2d", "--pictures", 0, *common, "--split", "tune", "--data-on", "device", "--resamples", 20) == 0
    assert [where.on for where in chosen] == ["disk", "memory", "device"]


# Where they fit

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
def test_auto_takes_the_accelerator_then_memory_then_the_disk_as_they_fit_by_their_share(room, gpu, host, device, found):
    assert (storage.DEVICE_SHARE, storage.MEMORY_SHARE) == (0.5, 0.25)
    room(gpu, host)
    where = place("auto", device)
    assert where.on == found and where.nbytes == NBYTES


@pytest.mark.parametrize(("on", "device", "gpu", "host"), [
    ("device", GPU, NBYTES - 1, 9 * NBYTES), ("device", CPU, 0, NBYTES - 1), ("memory", GPU, 9 * NBYTES, NBYTES - 1),
])
def test_what_is_asked_for_and_does_not_fit_is_one_line_with_what_is_needed_and_what_is_free(room, on, device, gpu, host):
    room(gpu, host)
    with pytest.raises(UserError) as error:
        place(on, device)
    text = str(error.value)
    assert re.match(rf"--data-on {on}: 1000 ears take 4\.0 GB, 4\.0 GB are free", text) and "\n" not in text
    room(gpu + 1, host + 1)
    assert place(on, device).on == on                                                    # asked for: no share is kept free
    assert place("disk", device).on == "disk"


def test_all_sets_of_a_run_are_weighed_together(study, room, monkeypatch):
    data = DataConfig(sample="exam", pct=100, cache_dir=Path(CACHE), label_task="six_class")
    store = EarStore(data.cache_dir, EarSpec(num_slices=4, image_size=32, extent="half"))
    sources = find_ears(data, store, None, ("train", "tune"))
    ears = sum(map(len, sources.ears.values()))
    assert sources.placement(store, CPU).nbytes == ears * 2 * 4 * 32 * 32 and len(sources.ears["tune"]) == 5
    room(0, 4 * ears * 2 * 4 * 32 * 32 - 1)
    assert sources.placement(store, CPU).on == "disk"                                    # the training set alone would fit


@pytest.mark.parametrize("workers", [0, -1])
def test_no_reader_at_all_is_refused(workers):
    with pytest.raises(ValueError, match="read-workers"):
        DataConfig(read_workers=workers)


# A storage

SPEC = EarSpec(num_slices=3, image_size=8)


@pytest.fixture
def stored(tmp_path):
    """Twenty ears; their rows, their volumes."""
    store, rows = EarStore(tmp_path, SPEC), []
    volumes = np.random.default_rng(0).integers(-1000, 3000, (20, *SPEC.shape)).astype(np.int16)
    for n, volume in enumerate(volumes):
        store.write(f"x{n}", Side.LEFT, volume, {})
        rows.append({"exam_id": f"x{n}", "side": "left", "label_code": 1})
    return store, pd.DataFrame(rows), volumes


def storage_of(on, stored, readers=3, device=CPU):
    return Placement(on, device, readers, 0).open_storage(stored[0], stored[1])


@pytest.mark.parametrize("on", MODES)
def test_any_cuts_come_in_order_and_none_at_all_is_none(stored, on):
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
def test_no_thread_is_left_when_a_feed_ends_is_stopped_or_fails(stored, on):
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


def test_the_next_batch_is_made_while_one_is_used_and_not_more(stored):
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


def test_an_array_in_another_order_than_it_is_read_in_is_refused(stored):
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


def test_what_is_waited_for_is_counted_and_what_is_computed_is_not():
    def slow():
        for n in range(3):
            time.sleep(0.05)
            yield n

    waiting = WaitTimer(CPU)
    for _ in waiting.timed(slow()):
        time.sleep(0.1)
    assert 0.15 <= waiting.seconds < 0.3
    assert list(WaitTimer(CPU).timed(iter(()))) == []


# The way to a GPU: its calls in their order on any machine, and the real thing where there is one

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
def test_a_batch_on_its_way_to_a_gpu_is_copied_once_waited_for_and_kept(stored, no_gpu, on):
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


def test_on_a_gpu_what_is_waited_for_is_how_long_the_network_lies_idle(monkeypatch):
    clock = [0]                                                                          # ms, of the network's stream

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def elapsed_time(self, other):
            return other.at - self.at

        def synchronize(self):
            pass

    class Stream:
        def record_event(self, event):
            event.at = clock[0]
            return event

    def feed():
        for n in range(3):
            time.sleep(0.05)                                                             # the loop waits, the network works
            clock[0] += 4                                                                # the network waits for the copy
            yield n

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    waiting = WaitTimer(GPU)
    for _ in waiting.timed(feed()):
        clock[0] += 100
    assert waiting.seconds == pytest.approx(0.012)


@needs_gpu
@pytest.mark.parametrize("on", MODES)
def test_on_a_gpu_a_batch_is_right_even_if_the_network_is_slow_and_lets_go_of_it_at_once(tmp_path, on):
    spec, count = EarSpec(num_slices=16, image_size=96), 40
    store = EarStore(tmp_path, spec)
    volumes = np.random.default_rng(0).integers(-1000, 3000, (count, *spec.shape)).astype(np.int16)
    for n, volume in enumerate(volumes):
        store.write(f"x{n}", Side.LEFT, volume, {})
    ears = pd.DataFrame([{"exam_id": f"x{n}", "side": "left", "label_code": 1} for n in range(count)])
    cuts = [np.random.default_rng(n).integers(0, count, 8) for n in range(60)]
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


@needs_gpu
def test_on_a_gpu_the_array_in_memory_is_pinned_as_long_as_it_lives(stored):
    found = storage_of("memory", stored, device=GPU)
    array = found.ears
    assert isinstance(found, MemoryStorage) and torch.from_numpy(array).is_pinned()
    del found
    gc.collect()
    assert not torch.from_numpy(array).is_pinned()
    assert isinstance(storage_of("device", stored, device=GPU), DeviceStorage)

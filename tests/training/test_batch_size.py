"""The largest batch that fits is found in few tries, leaves no trace, and is recorded."""
import json
import math

import pytest
import torch
from helpers.commands import run
from helpers.small_study import codes_in_turn, write_study
from torch import nn

from medical_fenlei.config import EarSpec
from medical_fenlei.models.network import NetworkOutput
from medical_fenlei.runs import Run
from medical_fenlei.training import batch_size
from medical_fenlei.training.batch_size import MAX_BATCH_SIZE, MIN_STEPS_PER_EPOCH, is_out_of_memory, largest_batch
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.loop import Trainer

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
SHAPE = (2, 4, 1, 16, 16)
PLENTY = 2**40


class Network(nn.Module):
    """Convolutions with statistics, and dropout; refuses what `refuse` raises for."""

    def __init__(self, refuse=None):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4))
        self.body = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)
        self.refuse = refuse
        self.sizes = []

    def forward(self, volume):
        self.sizes.append(len(volume))
        embedding = self.body(self.frozen(volume.transpose(1, 2))).mean((2, 3, 4))
        if self.refuse:
            self.refuse(len(volume))
        return NetworkOutput(self.head(embedding), embedding, None)


def out_of_memory(ears):
    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {ears} GiB.")


def out_of_memory_beyond(ears):
    def refuse(given):
        if given > ears:
            out_of_memory(given)
    return refuse


def shapes_differ(_ears):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x8 and 9x3)")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Steps are tried as on a GPU, but computed here."""
    step = batch_size._step
    monkeypatch.setattr(batch_size, "_step", lambda model, shape, _compute: step(model, shape, CPU))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return ComputeSettings(torch.device("meta"), torch.float32)


def used(network):
    """The network after a step of training, so that its statistics are no longer those it began with."""
    network.train()
    refuse, network.refuse = network.refuse, None
    network(torch.randn(2, 4, 1, 16, 16)).logits.sum().backward()
    network.zero_grad(set_to_none=True)
    network.refuse, network.sizes = refuse, []
    return network


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_untouched(network, before, training):
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(name.endswith("num_batches_tracked") and tensor > 0 for name, tensor in before.items())
    assert all(p.grad is None for p in network.parameters())
    assert {module.training for module in network.modules()} == {training}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize(("refuse", "raises"), [
    (None, None), (out_of_memory, torch.OutOfMemoryError), (shapes_differ, RuntimeError),
], ids=["fits", "never_fits", "fails"])
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_the_search_leaves_network_mode_and_random_state_as_they_were(as_on_a_gpu, gpu, refuse, raises, training):
    torch.manual_seed(0)
    network = used(Network(refuse)).train(training)
    before, random = state(network), torch.get_rng_state()
    if raises:
        with pytest.raises(raises):
            largest_batch(network, SHAPE, as_on_a_gpu if gpu else CPU, samples=40)
    else:
        assert largest_batch(network, SHAPE, as_on_a_gpu if gpu else CPU, samples=40) == 10
    assert network.sizes
    assert torch.equal(torch.get_rng_state(), random)
    assert_untouched(network, before, training)


def test_existing_gradients_are_kept():
    network = used(Network())
    network(torch.randn(2, 4, 1, 16, 16)).logits.sum().backward()
    before = {name: p.grad.clone() for name, p in network.named_parameters()}
    largest_batch(network, SHAPE, CPU, samples=40)
    assert all(p.grad is not None and torch.equal(p.grad, before[name]) for name, p in network.named_parameters())


def test_a_module_in_evaluation_mode_stays_in_it():
    network = used(Network())
    network.frozen.eval()
    largest_batch(network, SHAPE, CPU, samples=40)
    assert network.training and network.body.training and not any(module.training for module in network.frozen.modules())


@pytest.mark.parametrize(("limit", "samples", "expected"), [
    (5, 200, 4), (1, 200, 1), (20, 200, 18), (49, 200, 44), (50, 200, 50), (90, 200, 50), (3, 8, 2), (2, 3, 1), (9, 1, 1),
])
def test_on_a_gpu_a_tenth_is_left_free_unless_the_bound_was_reached(as_on_a_gpu, limit, samples, expected):
    network = used(Network(out_of_memory_beyond(2 * limit)))     # two ears a sample
    before = state(network)
    assert largest_batch(network, SHAPE, as_on_a_gpu, samples=samples) == expected
    assert max(network.sizes) <= 2 * max(1, samples // MIN_STEPS_PER_EPOCH)
    assert_untouched(network, before, True)


def test_when_not_even_one_sample_fits_it_is_out_of_memory(as_on_a_gpu):
    with pytest.raises(torch.OutOfMemoryError, match=r"\(2, 4, 1, 16, 16\)"):
        largest_batch(used(Network(out_of_memory_beyond(1))), SHAPE, as_on_a_gpu, samples=100)


def test_another_error_than_memory_comes_through_at_once(as_on_a_gpu):
    network = used(Network(shapes_differ))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        largest_batch(network, SHAPE, as_on_a_gpu, samples=100)
    assert len(network.sizes) == 1


@pytest.mark.parametrize("bound", [*range(1, 41), 64, 100, 255, 256])
def test_the_search_finds_the_largest_size_in_few_tries_none_of_them_far_beyond(bound):
    for limit in range(bound + 3):
        tried = []
        found = batch_size._search(lambda n: tried.append(n) or n <= limit, bound)  # noqa: B023
        assert found == max((n for n in range(1, bound + 1) if n <= limit), default=0)
        assert len(tried) <= 2 * math.ceil(math.log2(bound + 1)) and len(set(tried)) == len(tried)
        assert all(1 <= n <= min(bound, max(1, 2 * limit)) for n in tried)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(), MemoryError("Unable to allocate"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8.00 GiB total capacity)"),
    RuntimeError("CUDA error: out of memory"), RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 9 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at CPUAllocator.cpp:68] . DefaultCPUAllocator: not enough memory: you tried to allocate 9."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
], ids=lambda error: str(error)[:40] or type(error).__name__)
def test_running_out_of_memory_is_recognised_by_any_of_its_messages(error):
    assert is_out_of_memory(error)


def test_the_message_of_the_installed_torch_is_recognised_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x8 and 9x3)"),
    RuntimeError("shape '[9]' is invalid for input of size 4"),
    RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ValueError("Expected more than 1 value per channel when training"),
    KeyboardInterrupt(), OSError(28, "No space left on device"),
], ids=lambda error: str(error)[:40] or type(error).__name__)
def test_another_error_is_not_taken_for_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_on_a_cpu_the_bound_falls_with_the_free_memory_and_is_at_least_one(monkeypatch):
    network, found = used(Network()), []
    for free in (PLENTY, 2**28, 2**25, 2**23, 2**20, 0):
        monkeypatch.setattr(batch_size, "free_memory", lambda free=free: free)
        found.append(largest_batch(network, SHAPE, CPU, samples=10_000))
    assert found == sorted(found, reverse=True) and found[0] == MAX_BATCH_SIZE and found[-1] == 1
    assert len(set(found)) >= 4


@pytest.mark.parametrize(("samples", "bound"), [(1, 1), (3, 1), (4, 1), (40, 10), (5000, MAX_BATCH_SIZE)])
def test_a_batch_leaves_four_steps_an_epoch(monkeypatch, samples, bound):
    monkeypatch.setattr(batch_size, "free_memory", lambda: PLENTY)
    assert largest_batch(used(Network()), SHAPE, CPU, samples=samples) == bound


@pytest.mark.parametrize("larger", [(4, 4, 1, 16, 16), (2, 8, 1, 16, 16), (2, 4, 1, 32, 16), (2, 4, 1, 16, 32)],
                         ids=["ears", "slices", "rows", "columns"])
def test_a_sample_of_twice_the_volume_counts_about_twice(larger):
    network = used(Network())
    one, two = (batch_size._bytes_per_sample(network, shape, CPU) for shape in (SHAPE, larger))
    assert two == pytest.approx(2 * one, rel=0.1)


def test_a_sample_counts_at_least_the_memory_of_its_activations():
    """Input, both convolutions and both normalisations are kept for the backward pass, in float32."""
    voxels = math.prod(SHAPE)
    assert batch_size._bytes_per_sample(used(Network()), SHAPE, CPU) >= 4 * voxels * (1 + 4 + 4 + 8 + 8)


TRAIN = ("train_dual", "--pct", 100, "--model", "dual_slice_attention", "--backbone", "test_resnet", "--epochs", 2,
         "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Twelve exams to train on: a batch of at most three."""
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, {"train": codes_in_turn("abcdefghijkl"), "tune": codes_in_turn("xy")},
                EarSpec(num_slices=4, image_size=32, extent="half"))
    return tmp_path


def written_batch_size(folder):
    return json.loads((folder / "config.json").read_text())["settings"]["training"]["batch_size"]


def last_weights(folder):
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)["weights"]


def test_a_run_with_the_batch_that_was_found_is_the_run_with_that_batch_named(here):
    assert run(*TRAIN, "--auto-batch", "--batch-size", 7, "--output-dir", "outputs/found") == 0
    assert written_batch_size(here / "outputs/found") == 3
    assert "3 samples per step" in (here / "outputs/found/train.log").read_text()
    assert run(*TRAIN, "--batch-size", 3, "--output-dir", "outputs/named") == 0
    found, named = (last_weights(here / "outputs" / name) for name in ("found", "named"))
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())


def test_a_run_that_goes_on_keeps_the_batch_it_found(here, monkeypatch):
    assert run(*TRAIN, "--auto-batch", "--output-dir", "outputs/whole") == 0
    save = Trainer._save

    def killed_after_the_first_epoch(self, improved):
        save(self, improved)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed_after_the_first_epoch)
        assert run(*TRAIN, "--auto-batch", "--output-dir", "outputs/stopped") == 75
    monkeypatch.setattr(batch_size, "free_memory", lambda: 0)    # a search would find another size now
    assert run("train_dual", "--resume", "outputs/stopped") == 0
    assert written_batch_size(here / "outputs/stopped") == 3
    assert [line["epoch"] for line in Run(here / "outputs/stopped").read_metrics()] == [1, 2]
    whole, stopped = (last_weights(here / "outputs" / name) for name in ("whole", "stopped"))
    assert all(torch.equal(stopped[name], tensor) for name, tensor in whole.items())


def test_little_memory_gives_a_small_batch(here, monkeypatch):
    monkeypatch.setattr(batch_size, "free_memory", lambda: 0)
    assert run(*TRAIN, "--auto-batch", "--output-dir", "outputs/small") == 0
    assert written_batch_size(here / "outputs/small") == 1

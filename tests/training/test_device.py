"""Device, precision and seeds of a run: the GPU of a process, the switches of torch, and the peak memory."""
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from medical_fenlei.errors import UserError
from medical_fenlei.training.device import ComputeSettings, compile_errors, peak_memory_gb, seed_everything


def test_another_error_of_a_compiled_step_passes_through():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), torch.OutOfMemoryError("out of memory")):
        with pytest.raises(type(error)) as caught, compile_errors():
            raise error
        assert caught.value is error


@pytest.fixture
def two_gpus(monkeypatch):
    taken = []
    for name, value in {"is_available": lambda: True, "device_count": lambda: 2, "set_device": taken.append,
                        "is_bf16_supported": lambda including_emulation: True}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return taken


@pytest.mark.parametrize(("rank", "number"), [(None, 0), ("0", 0), ("1", 1)])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_computes_on_the_gpu_of_its_number(two_gpus, monkeypatch, device, rank, number):
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    expected = torch.device("cuda", number)
    assert ComputeSettings.choose(device, "auto") == ComputeSettings(expected, torch.bfloat16) and two_gpus == [expected]


def test_a_process_without_a_gpu_of_its_own_is_refused_unless_it_computes_on_the_cpu(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"^--device auto: process 3 .* there are 2; .*--nproc-per-node 2$"):
        ComputeSettings.choose("auto", "fp32")
    assert ComputeSettings.choose("cpu", "fp32").device == torch.device("cpu") and not two_gpus


@pytest.fixture
def switches(monkeypatch):
    """Returns a function that reads the switches that `seed_everything` sets; restores them afterwards."""
    cudnn, before = torch.backends.cudnn, {}

    def stand():
        return {"matmul": torch.get_float32_matmul_precision(), "tf32": cudnn.allow_tf32, "same": cudnn.deterministic,
                "search": cudnn.benchmark, "only_same": torch.are_deterministic_algorithms_enabled()}

    before, generators = stand(), (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield stand
    torch.set_float32_matmul_precision(before["matmul"])
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before["tf32"], before["same"], before["search"]
    torch.use_deterministic_algorithms(before["only_same"])
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    random.setstate(generators[0])
    np.random.set_state(generators[1])  # noqa: NPY002
    torch.set_rng_state(generators[2])


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_on_a_gpu_the_settings_set_every_switch_whatever_it_was_before(switches, deterministic, tf32):
    for before in (True, False):
        seed_everything(1, torch.device("cuda"), deterministic=before, tf32=before)
        seed_everything(1, torch.device("cuda", 0), deterministic=deterministic, tf32=tf32)
        assert switches() == {"matmul": "high" if tf32 else "highest", "tf32": tf32, "same": deterministic,
                              "search": not deterministic, "only_same": deterministic}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and torch.is_deterministic_algorithms_warn_only_enabled()


def test_on_a_cpu_no_switch_is_changed(switches):
    before = switches()
    seed_everything(1, torch.device("cpu"), deterministic=True, tf32=False)
    assert switches() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_everything_drawn_follows_from_the_seed(switches):
    def drawn(seed):
        seed_everything(seed, torch.device("cpu"))
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    one, same, other = drawn(3), drawn(3), drawn(4)
    assert one == same and all(a != b for a, b in zip(one, other, strict=True))


def test_peak_memory_is_that_of_this_process_or_of_the_tensors_on_the_gpu(monkeypatch):
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    most, unit = status["VmHWM"].split()
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(1024 * int(most) / 1e9, rel=0.02) and unit == "kB"
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {torch.device("cuda", 1): 3_500_000_000}[device])
    assert peak_memory_gb(torch.device("cuda", 1)) == 3.5

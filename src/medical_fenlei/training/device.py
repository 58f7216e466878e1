"""Where a network computes, and in which numbers."""
import contextlib
import os
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from medical_fenlei.errors import UserError


@dataclass(frozen=True)
class Arithmetic:
    """A device and the precision of the encoder on it; weights, pooling, head and loss stay float32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: str, precision: str) -> "Arithmetic":
        """auto: a GPU where there is one; bf16 where the device computes in it, else fp32. Raises UserError.

        Of several GPUs each process that torchrun started takes its own.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU here; --device cpu, or auto")
        where = torch.device("cpu")
        if device != "cpu" and torch.cuda.is_available():
            number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if number >= there:
                raise UserError(f"--device {device}: process {number + 1} on this machine has no GPU, there are {there}; start "
                                f"torchrun with --nproc-per-node {there}")
            where = torch.device("cuda", number)
            torch.cuda.set_device(where)
        if precision == "fp16" and where.type == "cpu":
            raise UserError("--precision fp16: needs a GPU; bf16, fp32 or auto")
        if precision == "auto":
            precision = "bf16" if _computes_in_bf16(where) else "fp32"
        return cls(where, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def __str__(self) -> str:
        on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


def _computes_in_bf16(device: torch.device) -> bool:
    """In hardware: elsewhere bf16 is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def compiled(model: nn.Module) -> Callable[..., Any]:
    """The same network, compiled by torch when it is first used, which has to be within `compiling`. Raises UserError."""
    try:
        return torch.compile(model)
    except RuntimeError as error:                                # a Python or a system that it does not know
        raise _cannot_compile(error) from None


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Raises UserError where a network cannot be compiled; other errors pass through."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        raise _cannot_compile(getattr(error, "inner_exception", error)) from None


def _cannot_compile(error: Exception) -> UserError:
    first = (str(error).splitlines() or [""])[0][:200]
    return UserError(f"--compile: torch cannot compile this network here ({type(error).__name__}: {first}); install a C++ "
                     "compiler, or leave --compile away")


def seed_everything(seed: int, device: torch.device, *, deterministic: bool = False, tf32: bool = True) -> None:
    """Python's, NumPy's and torch's global generators; and which algorithms a GPU may take.

    deterministic: only those that give the same bits each time, else the fastest that it finds. tf32: may round what is left in
    float32 to 10 bits of mantissa in products. On a CPU the same bits come out anyway.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from it; our own code takes generators)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")          # or cuBLAS refuses to promise it
        torch.use_deterministic_algorithms(deterministic, warn_only=True)        # says which operation cannot


def memory_gb(device: torch.device) -> float:
    """The most that was taken so far: of the GPU's memory by tensors, on the CPU by the process; in 10⁹ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

"""The device a network computes on and its numeric precision; compilation; seeds."""
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
class ComputeSettings:
    """A device and the precision of the encoder on it; weights, pooling, head and loss stay in float32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: str, precision: str) -> "ComputeSettings":
        """Resolve auto: a GPU if there is one, and bf16 if the device supports it in hardware, else fp32. Raises UserError.

        Each process that torchrun started takes a GPU of its own.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU here; use --device cpu or auto")
        chosen = torch.device("cpu")
        if device != "cpu" and torch.cuda.is_available():
            number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if number >= count:
                raise UserError(f"--device {device}: process {number + 1} on this machine has no GPU, there are {count}; start "
                                f"torchrun with --nproc-per-node {count}")
            chosen = torch.device("cuda", number)
            torch.cuda.set_device(chosen)
        if precision == "fp16" and chosen.type == "cpu":
            raise UserError("--precision fp16: needs a GPU; use bf16, fp32 or auto")
        if precision == "auto":
            precision = "bf16" if _supports_bf16(chosen) else "fp32"
        return cls(chosen, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """A context in which torch computes in `dtype` where that is safe."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def __str__(self) -> str:
        on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


def _supports_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 in hardware; emulated, bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def compiled(model: nn.Module) -> Callable[..., Any]:
    """Return the network compiled by torch. Compilation happens at first use, inside `compile_errors`. Raises UserError."""
    try:
        return torch.compile(model)
    except RuntimeError as error:                                # an unsupported version of Python or system
        raise _cannot_compile(error) from None


@contextlib.contextmanager
def compile_errors() -> Iterator[None]:
    """Turn an error of torch's compiler into a UserError; other errors pass through."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        raise _cannot_compile(getattr(error, "inner_exception", error)) from None


def _cannot_compile(error: Exception) -> UserError:
    first = (str(error).splitlines() or [""])[0][:200]
    return UserError(f"--compile: torch cannot compile this network here ({type(error).__name__}: {first}); install a C++ "
                     "compiler, or omit --compile")


def seed_everything(seed: int, device: torch.device, *, deterministic: bool = False, tf32: bool = True) -> None:
    """Seed the global generators of Python, NumPy and torch, and choose the algorithms that a GPU may use.

    deterministic: only algorithms that give the same bits each time, else the fastest. tf32: float32 products may round to 10
    bits of mantissa. A CPU gives the same bits in any case.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from it; our own code takes generators)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")          # a condition of cuBLAS for determinism
        torch.use_deterministic_algorithms(deterministic, warn_only=True)        # warns of operations that cannot be


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory so far, in 10⁹ bytes: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

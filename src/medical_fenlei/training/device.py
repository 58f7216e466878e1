"""Where a network computes, and in which numbers."""
import contextlib
import random
from dataclasses import dataclass

import numpy as np
import torch

from medical_fenlei.errors import UserError


@dataclass(frozen=True)
class Arithmetic:
    """A device and the precision of the encoder on it; weights, pooling, head and loss stay float32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: str, precision: str) -> "Arithmetic":
        """auto: a GPU where there is one; bf16 where the device computes in it, else fp32. Raises UserError."""
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU here; --device cpu, or auto")
        where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
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


def seed_everything(seed: int, device: torch.device) -> None:
    """Python's, NumPy's and torch's global generators; and on a GPU the algorithms that give the same sums each time."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from it; our own code takes generators)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

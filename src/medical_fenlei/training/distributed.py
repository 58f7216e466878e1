"""Several processes of one run: which of them this is, and how they exchange data.

Torchrun starts them and describes them in the environment. Every process holds the whole network and takes its share of each
batch. Tensors on the devices (gradients) are summed by the device's backend, objects on the hosts (a flag, a table) are sent
through gloo. A single process exchanges nothing.
"""
import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from medical_fenlei.errors import BAD_INPUT, CheckFailed, UserError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(days=1)
"""How long processes wait for one another: long enough for one to prepare ears that the cache lacks. If a process dies,
torchrun ends the others at once."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Number of this process on its machine, and of its GPU."""

    local_world_size: int = 1
    """Number of processes on this machine."""

    host_group: Any = None
    """The gloo group of the hosts."""

    @classmethod
    @contextlib.contextmanager
    def join(cls, device: torch.device) -> Iterator["Ranks"]:
        """Join the processes that torchrun started; without torchrun, this process alone. Raises UserError if its variables are
        no numbers.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(name in os.environ for name in names):
            yield cls()
            return
        try:
            rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in names)
        except ValueError:
            raise UserError(f"{', '.join(names)}: expected numbers, as torchrun sets them") from None
        if world_size == 1:
            yield cls()
            return
        with _lost_process():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
            host_group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        try:
            yield cls(rank, world_size, local_rank, local_world_size, host_group)
        except BaseException:                                    # NCCL's group would wait for unfinished work; threads of the
            dist.destroy_process_group(host_group if device.type == "cuda" else None)    # hosts' would spoil the exit status
            raise
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process logs and writes for all."""
        return self.rank == 0

    def share(self, samples: np.ndarray) -> np.ndarray:
        """Return this process's part of samples; in the order of the ranks, the parts make up the whole."""
        return np.array_split(samples, self.world_size)[self.rank]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each float32 tensor by its sum over all processes, in one message."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _lost_process():
            dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give the model the weights and statistics that it has in the first process."""
        tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        if not self.is_first:
            torch._foreach_zero_(tensors)
        self.sum(tensors)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.world_size == 1:
            return flag
        found = torch.tensor(float(flag))
        with _lost_process():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.host_group)
        return bool(found)

    def gather(self, own: T) -> list[T]:
        """Return the value of each process, in the order of the ranks."""
        if self.world_size == 1:
            return [own]
        each: list[Any] = [None] * self.world_size
        with _lost_process():
            dist.all_gather_object(each, own, group=self.host_group)
        return each

    def on_first(self, work: Callable[[], T]) -> T:
        """Run the work in the first process and return its result in all; the others wait.

        A UserError ends all processes, but only the first one reports it.
        """
        if self.world_size == 1:
            return work()
        message: list[Any] = [None, None]                        # the result, or an exit status
        failure: UserError | None = None
        if self.is_first:
            try:
                message = [work(), None]
            except UserError as error:
                failure, message = error, [None, BAD_INPUT]
        with _lost_process():
            dist.broadcast_object_list(message, src=0, group=self.host_group)
        result, status = message
        if failure is not None:
            raise failure
        if status is not None:
            raise SystemExit(status)
        found: T = result
        return found


@contextlib.contextmanager
def _lost_process() -> Iterator[None]:
    """Turn a broken connection, which is how a dead process appears to the others, into a one-line CheckFailed."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise CheckFailed("another process of the run is gone, or cannot be reached; look for its last lines above, then "
                          f"--resume ({type(error).__name__}: {first})") from error

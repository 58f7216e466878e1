"""Several processes, one run: which of them this is, and what they have to tell one another.

Torchrun starts them and names them in the environment. Every process holds the whole network and takes its share of each batch.
What the devices hold (gradients) is summed by the device's own means, what the hosts know (a flag, a table) through the host. A
process by itself is a company of one: nothing is sent.
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

PATIENCE = datetime.timedelta(days=1)
"""How long the others wait for one of them: for as long as it may prepare ears that the cache lacks. Torchrun ends them all as
soon as one of them dies."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """On this machine: the number of its GPU."""

    local_world: int = 1
    """How many of them share this machine."""

    host: Any = None
    """The group through which the hosts speak."""

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: torch.device) -> Iterator["Ranks"]:
        """Those that torchrun started, or this process alone. Raises UserError if what it set makes no sense."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(name in os.environ for name in names):
            yield cls()
            return
        try:
            rank, world, local_rank, local_world = (int(os.environ[name]) for name in names)
        except ValueError:
            raise UserError(f"{', '.join(names)}: expected numbers, as torchrun sets them") from None
        if world == 1:
            yield cls()
            return
        with _loss_of_others():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
            host = dist.new_group(backend="gloo", timeout=PATIENCE)
        try:
            yield cls(rank, world, local_rank, local_world, host)
        except BaseException:                                    # NCCL's group would wait for what was not finished; the host's
            dist.destroy_process_group(host if device.type == "cuda" else None)        # threads would spoil the exit status
            raise
        dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def share(self, samples: np.ndarray) -> np.ndarray:
        """This one's part of samples that all of them know; in the order of the ranks the parts make up the whole."""
        return np.array_split(samples, self.world)[self.rank]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each of these float32 tensors becomes its sum over all; in one message, where they are."""
        if self.world == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        with _loss_of_others():
            dist.all_reduce(whole)
        for tensor, summed in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def follow_first(self, model: nn.Module) -> None:
        """Give the model the weights and statistics that it has in the first process."""
        tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        if not self.first:
            torch._foreach_zero_(tensors)
        self.sum(tensors)

    def any(self, flag: bool) -> bool:
        """Whether it is so with any of them."""
        if self.world == 1:
            return flag
        found = torch.tensor(float(flag))
        with _loss_of_others():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.host)
        return bool(found)

    def gather(self, own: T) -> list[T]:
        """What each of them has, in the order of the ranks."""
        if self.world == 1:
            return [own]
        each: list[Any] = [None] * self.world
        with _loss_of_others():
            dist.all_gather_object(each, own, group=self.host)
        return each

    def first_alone(self, work: Callable[[], T]) -> T:
        """What the first one comes to; the others wait for it. What it raises ends them all; only the first says why."""
        if self.world == 1:
            return work()
        said: list[Any] = [None, None]
        failure: UserError | None = None
        if self.first:
            try:
                said = [work(), None]
            except UserError as error:
                failure, said = error, [None, BAD_INPUT]
        with _loss_of_others():
            dist.broadcast_object_list(said, src=0, group=self.host)
        result, status = said
        if failure is not None:
            raise failure
        if status is not None:
            raise SystemExit(status)
        found: T = result
        return found


@contextlib.contextmanager
def _loss_of_others() -> Iterator[None]:
    """A process that dies breaks its connections: what the others then see becomes one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise CheckFailed("another process of the run is gone, or cannot be reached; look for its last lines above, then "
                          f"--resume ({type(error).__name__}: {first})") from error

"""Commands in processes of their own, as a shell would start them, and what befalls one of them at a certain place."""
import functools
import multiprocessing
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from helpers.commands import run
from helpers.process_group import CONTEXT, environment, free_port

CONTEXT.set_forkserver_preload(["helpers.preload"])
TESTS = str(Path(__file__).parents[1])
if TESTS not in os.environ.get("PYTHONPATH", "").split(os.pathsep):                       # or the server would not find it
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), TESTS)))
FULL, SLOW = 1 << 20, 1.0
"""Bytes; seconds."""
TIMEOUT = 60
"""Seconds after which a process is said to hang."""
SAID = "said.txt"
"""Below the working folder: what the processes said, one after the other."""


@dataclass(frozen=True)
class Fate:
    """What befalls a process when it comes to a place for the n-th time."""

    place: str
    """`module:function` or `module:Class.method`; of `torch:Tensor.backward` the inside."""

    does: tuple[int | str, ...] = (signal.SIGKILL,)
    """Signals that it gets, one after the other; a negative one its parent gets. `full`: from then on no file may be larger
    than FULL. `slow`: it takes SLOW seconds longer."""

    nth: int = 1
    after: bool = False
    """When the function has returned, not before it begins."""

    def await_(self) -> None:
        """From here on, in this process."""
        owner, _, name = self.place.rpartition("." if "." in self.place.partition(":")[2] else ":")
        holder = pkgutil.resolve_name(owner)
        function, came = getattr(holder, name), 0

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal came
            came += 1
            if came != self.nth:
                return function(*args, **kwargs)
            if self.place == "torch:Tensor.backward":
                args[0].register_hook(lambda gradient: self.befall())
            elif not self.after:
                self.befall()
            found = function(*args, **kwargs)
            if self.after:
                self.befall()
            return found

        setattr(holder, name, watched)

    def befall(self) -> None:
        for deed in self.does:
            if deed == "slow":
                time.sleep(SLOW)
            elif deed == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            elif isinstance(deed, int):
                os.kill(os.getpid() if deed > 0 else os.getppid(), abs(deed))




def start(folder: Path, *words: object, fates: Sequence[Fate] = (), variables: Mapping[str, str] | None = None
          ) -> ForkServerProcess:
    """`python scripts/<words>` in a folder."""
    process = CONTEXT.Process(target=_live, args=(str(folder), words, tuple(fates), {**(variables or {})}))
    process.start()
    return process


def start_company(folder: Path, *words: object, fates: Mapping[int, Sequence[Fate]] | None = None) -> list[ForkServerProcess]:
    """Two ranks, as torchrun would start them; fates: of each rank."""
    port = free_port()
    return [start(folder, *words, fates=(fates or {}).get(rank, ()), variables=environment(rank, 2, port)) for rank in (0, 1)]


def end(process: ForkServerProcess) -> int:
    """Its exit status, or minus the signal that killed it. Fails if it hangs."""
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"hung for {TIMEOUT} s")
    assert process.exitcode is not None
    return process.exitcode


def said(folder: Path, rank: int = 0) -> str:
    return (folder / f"{rank or ''}{SAID}").read_text()


def _live(folder: str, words: Sequence[object], fates: Sequence[Fate], variables: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(variables)
    rank = variables.get("RANK", "0").strip("0")
    file = os.open(rank + SAID, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)     # as in a terminal, wherever the tests run
    torch.set_num_threads(1)
    sys.argv = [f"scripts/{words[0]}.py"]
    multiprocessing.get_context = lambda method=None: CONTEXT.get_context("fork")         # the runs of a study come as fast
    for fate in fates:
        fate.await_()
    name, *flags = words
    sys.exit(run(str(name), *flags))

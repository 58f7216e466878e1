"""Commands in processes of their own, as a shell would start them, and interruptions at a chosen place in their code."""
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
if TESTS not in os.environ.get("PYTHONPATH", "").split(os.pathsep):                # or the server would not find the helpers
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), TESTS)))
FULL_DISK = 1 << 20
"""Largest size of a file in bytes after the action `full`."""
DELAY = 1.0
"""Length of the action `slow` in seconds."""
TIMEOUT = 240
"""Seconds after which a process counts as hanging."""
COMMAND = "PROCESS_OF_THE_COMMAND"
"""Environment variable with the number of the process that runs the command, for the processes that it starts."""
OUTPUT = "output.txt"
"""File below the working folder with the output of the last process; that of rank 1 is `1output.txt`."""


@dataclass(frozen=True)
class Interruption:
    """Actions on a process at the n-th call of a function."""

    place: str
    """`module:function` or `module:Class.method`; `torch:Tensor.backward` stands for the middle of the backward pass."""

    actions: tuple[int | str, ...] = (signal.SIGKILL,)
    """Signals in their order; a negative one goes to the process of the command. `full` limits every file to FULL_DISK from
    then on. `slow` waits for DELAY."""

    nth: int = 1
    """Number of the call, counted from 1."""

    after: bool = False
    """Whether it happens after the function has returned, instead of before it begins."""

    def install(self) -> None:
        """Replace the function by one that counts its calls and performs the actions at the n-th, in this process."""
        owner, _, name = self.place.rpartition("." if "." in self.place.partition(":")[2] else ":")
        holder = pkgutil.resolve_name(owner)
        function, calls = getattr(holder, name), 0

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.nth:
                return function(*args, **kwargs)
            if self.place == "torch:Tensor.backward":
                args[0].register_hook(lambda gradient: self._perform())
            elif not self.after:
                self._perform()
            found = function(*args, **kwargs)
            if self.after:
                self._perform()
            return found

        setattr(holder, name, watched)

    def _perform(self) -> None:
        """Perform the actions."""
        for action in self.actions:
            if action == "slow":
                time.sleep(DELAY)
            elif action == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            elif isinstance(action, int):
                os.kill(os.getpid() if action > 0 else int(os.environ[COMMAND]), abs(action))


def start(folder: Path, *words: object, interruptions: Sequence[Interruption] = (),
          variables: Mapping[str, str] | None = None) -> ForkServerProcess:
    """Start `python scripts/<words>` in a folder, with these environment variables."""
    process = CONTEXT.Process(target=_run_command, args=(str(folder), words, tuple(interruptions), {**(variables or {})}))
    process.start()
    return process


def start_two_ranks(
    folder: Path, *words: object, interruptions: Mapping[int, Sequence[Interruption]] | None = None
) -> list[ForkServerProcess]:
    """Start the command in two processes, as torchrun would. interruptions: by rank."""
    port, each = free_port(), interruptions or {}
    return [start(folder, *words, interruptions=each.get(rank, ()), variables=environment(rank, 2, port)) for rank in (0, 1)]


def exit_status(process: ForkServerProcess) -> int:
    """Wait for a process; return its exit status, or minus the signal that killed it. Fails if the process hangs."""
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"hung for {TIMEOUT} s")
    assert process.exitcode is not None
    return process.exitcode


def output_of(folder: Path, rank: int = 0) -> str:
    """Return what the last command in a folder wrote to standard output and standard error."""
    return (folder / f"{rank or ''}{OUTPUT}").read_text()


def _run_command(
    folder: str, words: Sequence[object], interruptions: Sequence[Interruption], variables: Mapping[str, str]
) -> None:
    """Body of a process: set it up, run the command, and exit with its status."""
    os.chdir(folder)
    os.environ.update(variables, **{COMMAND: str(os.getpid())})
    rank = variables.get("RANK", "0").strip("0")
    file = os.open(rank + OUTPUT, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)     # as in a terminal, wherever the tests run
    torch.set_num_threads(1)
    sys.argv = [f"scripts/{words[0]}.py"]
    multiprocessing.get_context = lambda method=None: CONTEXT.get_context("fork")      # the runs of a study start as quickly
    for interruption in interruptions:
        interruption.install()
    name, *flags = words
    sys.exit(run(str(name), *flags))

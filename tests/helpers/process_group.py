"""Functions that run in several processes of one run on this machine, as torchrun would start them."""
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["medical_fenlei.training.loop", "medical_fenlei.models.build"])
"""The server imports these once, so that a process starts quickly."""
TIMEOUT = 120
"""Seconds to wait for a result."""


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Return the environment variables that torchrun sets."""
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    """Return a TCP port of this machine that is free."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def stderr_file(rank: int) -> str:
    """Return the name of the file, below the working folder, that receives the standard error of a process."""
    return f"stderr_{rank}.txt"


def run_processes(work: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """Call `work(*args)`, a function of a module, in each process; return its results, or the exceptions that ended it."""
    queue, port = CONTEXT.Queue(), free_port()
    processes = [CONTEXT.Process(target=_run_process, args=(queue, work, rank, world, port, os.getcwd(), args))
                 for rank in range(world)]
    for process in processes:
        process.start()
    try:
        found = dict(queue.get(timeout=TIMEOUT) for _ in processes)
        return [pickle.loads(found[rank]) for rank in range(world)]
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def run_process_group(work: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """Call `work(ranks, *args)` in each process of a joined group; return the same as `run_processes`."""
    return run_processes(_with_ranks, work, *args, world=world)


def _with_ranks(work: Callable[..., Any], *args: Any) -> Any:
    """Join the group of processes and call `work(ranks, *args)`."""
    import torch

    from medical_fenlei.training.distributed import Ranks

    with Ranks.join(torch.device("cpu")) as ranks:
        return work(ranks, *args)


def _run_process(queue: Any, work: Callable[..., Any], rank: int, world: int, port: int, folder: str, args: tuple[Any, ...]
                 ) -> None:
    """Body of a process: set it up, call `work(*args)`, and put the rank and the result into the queue."""
    import torch

    os.environ.update(environment(rank, world, port))
    os.chdir(folder)
    os.dup2(os.open(stderr_file(rank), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    try:
        found = work(*args)
    except BaseException as error:
        found = error
    queue.put((rank, pickle.dumps(found)))                       # tensors would be shared, and gone with this process

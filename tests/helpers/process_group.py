"""Several processes of one run, on this machine, as torchrun would start them."""
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["medical_fenlei.training.loop", "medical_fenlei.models.build"])
"""Imported once: a process then starts in a blink."""
TIMEOUT = 120


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _work(queue: Any, work: Callable[..., Any], rank: int, world: int, port: int, folder: str, words: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(environment(rank, world, port))
    os.chdir(folder)
    os.dup2(os.open(said_by(rank), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    try:
        found = work(*words)
    except BaseException as error:
        found = error
    queue.put((rank, pickle.dumps(found)))                       # tensors would be shared, and gone with this process


def said_by(rank: int) -> str:
    """The file below the working folder to which the standard error of that process goes."""
    return f"said_by_{rank}.txt"


def _joined(work: Callable[..., Any], *words: Any) -> Any:
    import torch

    from medical_fenlei.training.distributed import Ranks

    with Ranks.join(torch.device("cpu")) as ranks:
        return work(ranks, *words)


def in_company(work: Callable[..., Any], *words: Any, world: int = 2) -> list[Any]:
    """As `side_by_side`, of `work(ranks, *words)`."""
    return side_by_side(_joined, work, *words, world=world)


def side_by_side(work: Callable[..., Any], *words: Any, world: int = 2) -> list[Any]:
    """What `work(*words)`, a function of a module, returns in each of the processes; or the exception that ended it."""
    queue, port = CONTEXT.Queue(), free_port()
    processes = [CONTEXT.Process(target=_work, args=(queue, work, rank, world, port, os.getcwd(), words))
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

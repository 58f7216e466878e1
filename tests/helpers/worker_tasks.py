"""Work of the jobs in tests/experiments/test_workers.py. An item is a dictionary; `file` receives what a job has to tell."""
import hashlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from medical_fenlei.config import DUAL_ROUTE, SLICE_ATTENTION

PREPARED = []
"""Items that the starter prepared for."""
ASKED_FOR_GPU = []
"""Calls by which torch would initialise CUDA."""


def tell(item, **facts):
    """Write facts into the item's file, all at once."""
    part = Path(item["file"] + ".part")
    part.write_text(json.dumps(facts))
    part.rename(item["file"])


def prepare(item):
    """Note that the starter prepares for an item."""
    PREPARED.append(item["name"])


def describe(item):
    """Tell who started the job, and what it inherited."""
    tell(item, starter=os.getppid(), prepared=PREPARED, threads=len(os.listdir(f"/proc/{os.getppid()}/task")),
         blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), asked=ASKED_FOR_GPU, folder=os.getcwd(),
         libraries=[name for name in ("torch", "timm", "monai", "torch._dynamo") if name in sys.modules])


def do(item):
    """End by the item's signal; or tell the number of the process, and go on for the item's seconds."""
    if "signal" in item:
        os.kill(os.getpid(), item["signal"])
    tell(item, process=os.getpid(), starter=os.getppid())
    time.sleep(item.get("seconds", 0))


def prepare_runs(item):
    """Prepare as for runs of both kinds of networks, and note if anything asks for a GPU."""
    import torch

    torch._C._cuda_getDeviceCount = lambda: ASKED_FOR_GPU.append("count") or 0
    torch._C._cuda_init = lambda: ASKED_FOR_GPU.append("init")

    from medical_fenlei.experiments.one_run import import_libraries
    from medical_fenlei.experiments.study import Job

    for network in (SLICE_ATTENTION[1], "dual_unet_3d"):
        import_libraries(Job(Path(), replace(DUAL_ROUTE, model=replace(DUAL_ROUTE.model, model=network))))


def import_computing(item):
    """Import what `compute` needs."""
    import torch  # noqa: F401


def compute(item):
    """Tell a digest of products and gradients that several threads computed."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    left = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    layer, x = torch.nn.Conv2d(3, 16, 3), torch.randn(8, 3, 64, 64)
    torch.nn.functional.relu(layer(x)).square().mean().backward()
    digest = hashlib.sha256((left @ left).tobytes())
    digest.update((torch.from_numpy(left) @ torch.from_numpy(left)).numpy().tobytes())
    digest.update(layer.weight.grad.numpy().tobytes())
    tell(item, digest=digest.hexdigest(), threads=torch.get_num_threads())


def order(work, items):
    """Order jobs, as a process of its own, and wait for them."""
    from medical_fenlei.experiments.workers import WorkerProcesses

    with WorkerProcesses(work) as workers:
        for item in items:
            workers.start(item, name=item["name"])
        while workers.running:
            workers.next_outcome()


def order_and_be_interrupted(file, place, after):
    """Order a job that waits, as a command of its own; an interrupt arrives at the first call of a function.

    file: of the item; place: the function, as `helpers.processes.Interruption` names it; after: when the function returns.
    """
    from helpers.processes import Interruption
    from medical_fenlei import cli
    from medical_fenlei.experiments.workers import Work

    Interruption(place, (signal.SIGINT,), after=after).install()
    item = {"name": "waiting", "file": file, "seconds": 60}
    return cli.run(lambda: order(Work("helpers.worker_tasks:do", "helpers.worker_tasks:prepare", False, None), [item]) or 0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        raise SystemExit(order_and_be_interrupted(sys.argv[1], sys.argv[2], sys.argv[3] == "1"))
    compute({"file": sys.argv[1]})
    assert threading.active_count() == 1

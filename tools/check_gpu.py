"""Check training on a GPU against a CPU, and its settings, with the ears of a synthetic hospital.

    python tools/check_gpu.py --demo data/demo
    python tools/check_gpu.py --demo data/demo --device cpu     # the checks that need none, some 5 minutes on two cores

Needs a hospital of tools/demo.sh with its cache. Short runs of the commands, each with one change:
  --deterministic gives bitwise equal weights, from each storage of the ears and after SIGTERM and --resume;
  --grad-checkpointing gives nearly equal weights
  float32 without TF32 gives the probabilities of the CPU; bf16 and fp16 nearly so
  --compile and --auto-batch train to the end, and so does a 3D network on the dual route
  a step that does not fit the memory of the GPU is split into micro-batches
Prints one line per check, and exits with status 1 if one fails.
"""
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from bench_train import Bench, ours

from medical_fenlei import cli, settings
from medical_fenlei.config import EAR2D, EAR_ROUTE
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import find_ears
from medical_fenlei.data.storage import Placement
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.checkpoint import read_checkpoint
from medical_fenlei.training.device import ComputeSettings, peak_memory_gb, seed_everything

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SPLITS = ("--splits-root", "artifacts/splits_dual_patient", "--pct", "100")
EARS = (*SPLITS, "--num-slices", "16", "--image-size", "96", "--crop-mm", "64", "--sampling", "roi", "--backbone", "resnet10t",
        "--batch-size", "8", "--epochs", "3", "--limit", "32", "--patience", "0")
EXACT, AT_ONCE = ("--deterministic",), {"cuda": 4, "cpu": 1}
RUNS: dict[str, tuple[str, ...]] = {
    "deterministic": EXACT, "again": EXACT, "memory": (*EXACT, "--data-on", "memory"), "disk": (*EXACT, "--data-on", "disk"),
    "recomputed": (*EXACT, "--grad-checkpointing"), "fp32": ("--precision", "fp32", "--no-tf32"),
    "bf16": ("--precision", "bf16"), "fp16": ("--precision", "fp16"), "compile": ("--compile",),
    "auto_batch": ("--auto-batch",),
}
RECOMPUTED = 1e-2
"""Largest difference of weights trained with stored and with recomputed activations."""
ALLOWED = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 0.05, "fp16": 0.01}
"""Largest difference of a probability from that in float32 on the CPU."""
SCARCE, STEP = 0.5, 32
"""Share of the memory of a step that the GPU is limited to, and the ears of that step."""


def started(script: str, *words: str) -> "subprocess.Popen[str]":
    """Start a script."""
    return subprocess.Popen([sys.executable, SCRIPTS / f"{script}.py", *words], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def ended(process: "subprocess.Popen[str]", status: int = cli.OK) -> str:
    """Wait for a process; return an empty string if it exits with this status, else the end of its output."""
    output = process.communicate()[0]
    return "" if process.returncode == status else f"status {process.returncode}: " + " | ".join(output.splitlines()[-3:])


def trained(folder: Path, device: str, name: str) -> str:
    """Train one of RUNS; return its problem, if any."""
    return ended(started("train_ear2d", *EARS, "--device", device, "--output-dir", str(folder / name), *RUNS[name]))


def stopped_and_resumed(folder: Path, device: str) -> str:
    """Train, send SIGTERM within an epoch, and resume; return the problem, if any."""
    run = Run(folder / "resumed")
    process = started("train_ear2d", *EARS, "--device", device, "--output-dir", str(run.folder), *EXACT)
    while process.poll() is None and not run.metrics_jsonl.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    return ended(process, cli.STOPPED) or ended(started("train_ear2d", "--resume", str(run.folder)))


def dual(folder: Path, device: str) -> str:
    """Train a 3D network on the dual route; return the problem, if any."""
    return ended(started("train_dual", *SPLITS, "--model", "dual_resnet18_3d", "--num-slices", "16", "--image-size", "64",
                         "--batch-size", "4", "--epochs", "1", "--limit", "16", "--device", device, "--output-dir",
                         str(folder / "dual")))


def probabilities(checkpoint: Path, device: str, precision: str) -> np.ndarray:
    """Return the probabilities of the first validation ears, float64 (N, classes)."""
    trained = open_network(checkpoint, kind=EAR2D, device=device, precision="fp32" if precision == "tf32" else precision)
    seed_everything(0, trained.compute.device, tf32=precision == "tf32")
    data, store = trained.config.data, trained.store(trained.config.data)
    ears = find_ears(data, store, trained.tasks, ("val",)).ears["val"]
    dataset = EarDataset(store, ears, placement=Placement.choose(data, store, trained.compute.device, ears=len(ears)))
    (table,) = trained.predict(dataset).values()
    return table.filter(like="prob_").to_numpy(np.float64)


def apart(folder: Path, one: str, other: str) -> float:
    """Return the largest difference between the last weights of two runs."""
    first, second = (read_checkpoint(folder / name / "checkpoints/last.pt", kind=EAR2D).weights for name in (one, other))
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def scarce_memory(folder: Path) -> tuple[int, float, float]:
    """Return the micro-batches of a step with scarce memory, and its peak memory with enough and with scarce memory in GB."""
    config = settings.changed(EAR_ROUTE, batch_size=STEP, device="cuda", data_on="disk")
    bench = Bench.with_noise(folder / "noise", config, STEP)
    peaks: list[float] = []
    parts = 0
    for share in (1.0, SCARCE):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if peaks:
            torch.cuda.set_per_process_memory_fraction(share * peaks[0] * 1e9 / torch.cuda.mem_get_info()[1])
        trainer = bench.trainer(*bench.network("resnet18"), bench.ears)
        ours(trainer)
        ours(trainer)
        peaks.append(peak_memory_gb(bench.device))
        parts = trainer.step.micro_batches
        del trainer
    torch.cuda.set_per_process_memory_fraction(1.0)
    return parts, peaks[0], peaks[1]


def main() -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="a hospital of tools/demo.sh, with its cache")
    parser.add_argument("--device", choices=tuple(AT_ONCE), default="cuda", help="(default: cuda)")
    args = parser.parse_args()
    cli.say(str(ComputeSettings.choose(args.device, "auto")))
    os.chdir(args.demo)
    names, failed = [name for name in RUNS if args.device == "cuda" or name != "fp16"], []

    def report(name: str, passed: bool, detail: str) -> None:
        cli.say(f"{'ok' if passed else 'FAILED':6s}  {name}: {detail}")
        if not passed:
            failed.append(name)

    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(AT_ONCE[args.device]) as pool:
        folder = Path(temporary)
        jobs = {name: pool.submit(trained, folder, args.device, name) for name in names}
        jobs |= {"resumed": pool.submit(stopped_and_resumed, folder, args.device),
                 "dual_resnet18_3d": pool.submit(dual, folder, args.device)}
        problems = {name: job.result() for name, job in jobs.items()}
        for name, problem in problems.items():
            report(f"trains, {name}", not problem, problem or "to the end")
        for name in ("again", "memory", "disk", "resumed", "recomputed"):
            if not problems[name] and not problems["deterministic"]:
                gap = apart(folder, "deterministic", name)
                report(f"weights of deterministic, {name}", gap <= (RECOMPUTED if name == "recomputed" else 0),
                     f"differ by at most {gap:.2g}")
        if args.device == "cuda" and not problems["fp32"]:
            checkpoint = folder / "fp32/checkpoints/last.pt"
            expected = probabilities(checkpoint, "cpu", "fp32")
            for name, allowed in ALLOWED.items():
                gap = float(np.abs(probabilities(checkpoint, "cuda", name) - expected).max())
                report(f"probabilities of the CPU, {name}", gap <= allowed, f"differ by at most {gap:.2g}")
        if args.device == "cuda":
            parts, whole, less = scarce_memory(folder)
            report(f"a step of {STEP} ears in {SCARCE:.0%} of its memory", parts > 1 and less < whole,
                 f"in {parts} micro-batches, {less:.2f} instead of {whole:.2f} GB")
    return cli.CHECK_FAILED if failed else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

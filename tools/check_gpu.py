"""Does training do on a GPU what it does on a CPU, and what its settings promise? On the ears of a synthetic hospital.

    python tools/check_gpu.py --demo data/demo
    python tools/check_gpu.py --demo data/demo --device cpu     # what can be tried without one, some 5 minutes on two cores

Needs a hospital of tools/demo.sh with its cache. Short runs of the real commands, each with one thing changed:
  --deterministic gives the same bits again, from each home of the ears, after SIGTERM and --resume; --grad-checkpointing almost
  float32 without TF32 gives the probabilities of the CPU; bf16 and fp16 nearly
  --compile and --auto-batch train to the end, and so does a 3D network on the dual route
  a step for which the GPU has no memory is taken in parts
Prints a line a check, and leaves with status 1 if one fails.
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
from medical_fenlei.trained.network import open_trained
from medical_fenlei.training.checkpoint import read_checkpoint
from medical_fenlei.training.device import Arithmetic, memory_gb, seed_everything

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SPLITS = ("--splits-root", "artifacts/splits_dual_patient", "--pct", "100")
EARS = (*SPLITS, "--num-slices", "16", "--image-size", "96", "--crop-mm", "64", "--sampling", "roi", "--backbone", "resnet10t",
        "--batch-size", "8", "--epochs", "3", "--limit", "64", "--patience", "0")
EXACT, AT_ONCE = ("--deterministic",), {"cuda": 4, "cpu": 1}
RUNS: dict[str, tuple[str, ...]] = {
    "deterministic": EXACT, "again": EXACT, "memory": (*EXACT, "--data-on", "memory"), "disk": (*EXACT, "--data-on", "disk"),
    "recomputed": (*EXACT, "--grad-checkpointing"), "fp32": ("--precision", "fp32", "--no-tf32"),
    "bf16": ("--precision", "bf16"), "fp16": ("--precision", "fp16"), "compile": ("--compile",),
    "auto_batch": ("--auto-batch",),
}
RECOMPUTED = 1e-2
"""How far weights may lie apart that were trained with activations kept and computed again."""
ALLOWED = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 0.05, "fp16": 0.01}
"""How far a probability may lie from that in float32 on the CPU."""
SCARCE, STEP = 0.5, 32
"""Share of what a step of so many ears takes that the GPU is left with."""


def started(script: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, SCRIPTS / f"{script}.py", *words], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def ended(process: "subprocess.Popen[str]", status: int = cli.OK) -> str:
    """"" where it left with the status, else what it said last."""
    said = process.communicate()[0]
    return "" if process.returncode == status else f"status {process.returncode}: " + " | ".join(said.splitlines()[-3:])


def trained(folder: Path, device: str, name: str) -> str:
    return ended(started("train_ear2d", *EARS, "--device", device, "--output-dir", str(folder / name), *RUNS[name]))


def stopped_and_resumed(folder: Path, device: str) -> str:
    """A run that SIGTERM ends within an epoch, and that goes on."""
    run = Run(folder / "resumed")
    process = started("train_ear2d", *EARS, "--device", device, "--output-dir", str(run.folder), *EXACT)
    while process.poll() is None and not run.metrics_jsonl.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    return ended(process, cli.STOPPED) or ended(started("train_ear2d", "--resume", str(run.folder)))


def dual(folder: Path, device: str) -> str:
    return ended(started("train_dual", *SPLITS, "--model", "dual_resnet18_3d", "--num-slices", "16", "--image-size", "64",
                         "--batch-size", "4", "--epochs", "1", "--limit", "16", "--device", device, "--output-dir",
                         str(folder / "dual")))


def probabilities(checkpoint: Path, device: str, precision: str) -> np.ndarray:
    """Of the first validation ears, float64 (N, classes)."""
    trained = open_trained(checkpoint, kind=EAR2D, device=device, precision="fp32" if precision == "tf32" else precision)
    seed_everything(0, trained.arithmetic.device, tf32=precision == "tf32")
    data, store = trained.config.data, trained.store(trained.config.data)
    ears = find_ears(data, store, trained.tasks, ("val",)).ears["val"]
    dataset = EarDataset(store, ears, placement=Placement.choose(data, store, trained.arithmetic.device, ears=len(ears)))
    (table,) = trained.predict(dataset).values()
    return table.filter(like="prob_").to_numpy(np.float64)


def apart(folder: Path, one: str, other: str) -> float:
    """The largest difference of two runs' last weights."""
    first, second = (read_checkpoint(folder / name / "checkpoints/last.pt", kind=EAR2D).weights for name in (one, other))
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def scarce_memory(folder: Path) -> tuple[int, float, float]:
    """In how many parts a step is taken at last; the memory that it takes with all it needs, and with a share of it, GB."""
    config = settings.changed(EAR_ROUTE, batch_size=STEP, device="cuda", data_on="disk")
    bench = Bench.drawn(folder / "noise", config, STEP)
    peaks, parts = [], 0
    for share in (1.0, SCARCE):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if peaks:
            torch.cuda.set_per_process_memory_fraction(share * peaks[0] * 1e9 / torch.cuda.mem_get_info()[1])
        trainer = bench.trainer(*bench.network("resnet18"), bench.ears)
        ours(trainer)
        ours(trainer)
        peaks.append(memory_gb(bench.device))
        parts = trainer.step.parts
        del trainer
    torch.cuda.set_per_process_memory_fraction(1.0)
    return parts, peaks[0], peaks[1]


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="a hospital of tools/demo.sh, with its cache")
    parser.add_argument("--device", choices=tuple(AT_ONCE), default="cuda", help="(default: cuda)")
    args = parser.parse_args()
    cli.say(str(Arithmetic.choose(args.device, "auto")))
    os.chdir(args.demo)
    names, failed = [name for name in RUNS if args.device == "cuda" or name != "fp16"], []

    def told(name: str, well: bool, detail: str) -> None:
        cli.say(f"{'ok' if well else 'FAILED':6s}  {name}: {detail}")
        if not well:
            failed.append(name)

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(AT_ONCE[args.device]) as pool:
        folder = Path(place)
        jobs = {name: pool.submit(trained, folder, args.device, name) for name in names}
        jobs |= {"resumed": pool.submit(stopped_and_resumed, folder, args.device),
                 "dual_resnet18_3d": pool.submit(dual, folder, args.device)}
        problems = {name: job.result() for name, job in jobs.items()}
        for name, problem in problems.items():
            told(f"trains, {name}", not problem, problem or "to the end")
        for name in ("again", "memory", "disk", "resumed", "recomputed"):
            if not problems[name] and not problems["deterministic"]:
                gap = apart(folder, "deterministic", name)
                told(f"weights of deterministic, {name}", gap <= (RECOMPUTED if name == "recomputed" else 0),
                     f"differ by at most {gap:.2g}")
        if args.device == "cuda" and not problems["fp32"]:
            checkpoint = folder / "fp32/checkpoints/last.pt"
            expected = probabilities(checkpoint, "cpu", "fp32")
            for name, allowed in ALLOWED.items():
                gap = float(np.abs(probabilities(checkpoint, "cuda", name) - expected).max())
                told(f"probabilities of the CPU, {name}", gap <= allowed, f"differ by at most {gap:.2g}")
        if args.device == "cuda":
            parts, whole, less = scarce_memory(folder)
            told(f"a step of {STEP} ears with {SCARCE:.0%} of its memory", parts > 1 and less < whole,
                 f"in {parts} parts, {less:.2f} instead of {whole:.2f} GB")
    return cli.CHECK_FAILED if failed else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Check that commands which write pictures answer a signal at any moment: they stop, or have written everything before.

    python tools/soak_signals.py                     # 400 signals: some 20 minutes
    python tools/soak_signals.py --signals 30

Draws a small synthetic hospital, trains a network, and runs predict_ear2d, eval_ear2d and gradcam_ear2d undisturbed. Then each
of them is sent SIGTERM, SIGINT or SIGHUP at a random moment, in a process that has imported everything already. Such a command
has to end with status 75, or by the signal itself (SIGHUP, or before it heeds signals), or with its usual status and every file
as the undisturbed command wrote it. No picture may be half written. Exits with status 1 if anything else happens.
"""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.errors import OK, PARTLY, STOPPED, CheckFailed

ROOT = Path(__file__).resolve().parents[1]
SPLITS, BEST = "artifacts/splits_dual_patient", "outputs/a/checkpoints/best.pt"
PREPARE = (
    ("make_demo_dataset", "--out-dir", ".", "--num-exams", "10", "--slices", "24", "--num-workers", "1"),
    ("build_index", "--num-workers", "1"), ("build_manifest_ears", "--num-workers", "1"),
    ("make_splits_dual", "--out-dir", SPLITS, "--patient-split", "--val-ratio", "0.4", "--tune-ratio", "0.3"),
    ("build_cache_ears", "--splits-root", SPLITS, "--num-slices", "6", "--image-size", "48", "--crop-mm", "64",
     "--num-workers", "1"),
    ("train_ear2d", "--splits-root", SPLITS, "--pct", "100", "--backbone", "test_resnet", "--batch-size", "8", "--precision",
     "fp32", "--device", "cpu", "--epochs", "1", "--output-dir", "outputs/a"))
NETWORK = ("--checkpoint", BEST, "--device", "cpu")
COMMANDS = (
    ("predict_ear2d", *NETWORK, "--dicom", "new", "--out-dir", "answers", "--num-workers", "1"),
    ("eval_ear2d", *NETWORK, "--resamples", "50", "--pictures", "4"),
    ("gradcam_ear2d", *NETWORK, "--all", "--method", "gradcam", "--top-k", "2"))
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


_SERVE = """
import os, runpy, sys
import matplotlib.figure, pandera.pandas, timm, torch
import medical_fenlei.evaluation.write, medical_fenlei.explanations.explain, medical_fenlei.new_exams.report
import medical_fenlei.run_report.page, medical_fenlei.training.run
torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        break
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    raise SystemExit
folder, *sys.argv = line.rstrip("\\n").split("\\t")
os.chdir(folder)
said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), said, said)):
    os.dup2(file, number)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Code of a process that imports what the commands use, and forks one that runs a script for each line that it reads."""


def written() -> dict[str, bytes]:
    """Return what the commands write, by path: all but the page of the run, which names the time."""
    return {str(path): path.read_bytes() for folder in ("answers", "outputs/a/reports") for path in Path(folder).rglob("*")
            if path.is_file() and path.stem != "report" and not path.name.startswith(".")}


class Soak:
    """A folder with a trained network, in which each command starts from the same files."""

    def __init__(self, home: Path) -> None:
        self.home, self.ended = home, Counter[str]()
        self._server = subprocess.Popen([sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def close(self) -> None:
        """End the process that starts the commands."""
        self._server.communicate()

    def run(self, words: tuple[str, ...], *, number: int = 0, after: float = 0.0) -> int:
        """Run a command in the working folder; return its exit status, negative for the signal that ended it.

        number, after: a signal to send it, after so many seconds; 0 for none.
        """
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write("\t".join((os.getcwd(), str(ROOT / f"scripts/{words[0]}.py"), *words[1:])) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        if number:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):        # it has ended already
                os.kill(pid, number)
        return int(self._server.stdout.readline())

    def said(self) -> str:
        """Return the end of what the last command printed."""
        return Path("said.txt").read_text(encoding="utf-8")[-800:]

    def prepare(self) -> None:
        """Draw the hospital and train the network. Raises CheckFailed if a command fails."""
        for words in PREPARE:
            if status := self.run(words):
                raise CheckFailed(f"{words[0]}: status {status}: {self.said()}")
        for exam in sorted(Path("data/medical_data_2").glob("*/*"))[:3]:
            shutil.copytree(exam, Path("new", exam.name))

    def fresh(self) -> None:
        """Change into a folder with the run as it was trained."""
        os.chdir(self.home)
        shutil.rmtree("trial", ignore_errors=True)
        shutil.copytree("outputs", "trial/outputs")
        for name in ("data", "artifacts", "cache", "new"):
            Path("trial", name).symlink_to(self.home / name)
        os.chdir("trial")

    def undisturbed(self, words: tuple[str, ...]) -> tuple[int, dict[str, bytes], float]:
        """Return a command's status, files, and seconds. Raises CheckFailed if it fails."""
        self.fresh()
        began = time.monotonic()
        usual = self.run(words)
        if usual not in (OK, PARTLY):
            raise CheckFailed(f"{words[0]}: status {usual}: {self.said()}")
        return usual, written(), time.monotonic() - began

    def disturb(self, words: tuple[str, ...], usual: int, expected: dict[str, bytes], after: float, number: int) -> None:
        """Send a command a signal after so many seconds. Raises CheckFailed if it ends otherwise than it may."""
        self.fresh()
        status, found = self.run(words, number=number, after=after), written()
        half = [name for name, data in found.items() if name.endswith(".png") and data != expected.get(name)]
        complete = status == usual and found == expected
        if half or not (complete or status in (STOPPED, -number)):
            raise CheckFailed(f"{words[0]}, {signal.Signals(number).name} after {after:.3f} s: status {status}, {len(found)} "
                              f"of {len(expected)} files, half written: {half}; {self.said()}")
        how = "complete" if complete else "stopped" if status == STOPPED else f"ended by {signal.Signals(number).name}"
        self.ended[f"{words[0]}: {how}"] += 1


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--signals", type=cli.int_at_least(1), default=400, help="(default: 400)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"XDG_CONFIG_HOME": folder, "PYTHONPATH": str(ROOT / "src")}
        soak = Soak(Path(folder).resolve())
        soak.prepare()
        usual = {words: soak.undisturbed(words) for words in COMMANDS}
        cli.say("undisturbed: " + ", ".join(f"{words[0]} {len(files)} files in {seconds:.1f} s"
                                            for words, (_, files, seconds) in usual.items()))
        try:
            for number in range(args.signals):
                words = COMMANDS[number % len(COMMANDS)]
                status, files, seconds = usual[words]
                soak.disturb(words, status, files, random.uniform(0, 1.05 * seconds), random.choice(SIGNALS))
        finally:
            for what, count in sorted(soak.ended.items()):
                cli.say(f"{count:5d} {what}")
            soak.close()
            os.chdir(ROOT)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

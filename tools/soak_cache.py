"""Can the cache be corrupted? Builds are killed at random moments, and several work on one store at once.

    python tools/soak_cache.py                       # 100 kills, 8 builders: some 5 minutes
    python tools/soak_cache.py --kills 10 --builders 3

Draws a small synthetic hospital, builds its cache undisturbed, and compares byte for byte. After every kill, every entry that
can be read has to be whole. Ends with status 1 if anything differs.
"""
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medical_fenlei import cli
from medical_fenlei.ears.store import BUILDERS, LOCK, EarStore, choose_store
from medical_fenlei.errors import CheckFailed
from medical_fenlei.vocabulary import Side

ROOT = Path(__file__).resolve().parents[1]
SPLITS = "artifacts/splits_dual_patient"
BUILD = ("build_cache_ears", "--splits-root", SPLITS, "--num-slices", "16", "--image-size", "64", "--crop-mm", "64",
         "--num-workers", "2")


def command(name: str, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]


def run(name: str, *words: str) -> str:
    done = subprocess.run(command(name, *words), capture_output=True, text=True)
    if done.returncode:
        raise CheckFailed(f"{name} left with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def content(folder: Path) -> dict[str, bytes]:
    """Every file that is not a builder's own."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in (LOCK, BUILDERS)}


def broken(store: EarStore) -> list[str]:
    """Entries that are there and not whole."""
    there = [json.loads(path.read_text(encoding="utf-8")) for path in store.folder.glob("*.json") if path.name != "spec.json"]
    return [f"{ear['exam_id']} {ear['side']}" for ear in there if not store.is_sound(ear["exam_id"], Side(ear["side"]))]


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--kills", type=cli.at_least(1), default=100, help="(default: 100)")
    parser.add_argument("--builders", type=cli.at_least(2), default=8, help="at once on one store (default: 8)")
    parser.add_argument("--exams", type=cli.at_least(4), default=16, help="of the hospital (default: 16)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"XDG_CONFIG_HOME": folder, "PYTHONPATH": str(ROOT / "src")}
        run("make_demo_dataset", "--out-dir", ".", "--num-exams", str(args.exams), "--slices", "24")
        for step in (("build_index",), ("build_manifest_ears",), ("make_splits_dual", "--out-dir", SPLITS, "--patient-split")):
            run(*step)
        began = time.monotonic()
        run(*BUILD, "--cache-dir", "whole")
        seconds = time.monotonic() - began
        whole = choose_store(Path("whole"), None)
        expected = content(whole.folder)
        cli.say(f"undisturbed: {len(expected)} files in {seconds:.1f} s")

        store = EarStore(Path("killed"), whole.spec)
        begun = 0
        for number in range(args.kills):
            build = subprocess.Popen(command(*BUILD, "--cache-dir", "killed"), start_new_session=True,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before = len([*store.folder.glob("*_*.npy")])
            while number % 2 and build.poll() is None and len([*store.folder.glob("*_*.npy")]) == before:
                time.sleep(0.005)                                # every other kill while ears are written, the rest anywhere
            time.sleep(random.uniform(0, 0.2 * seconds if number % 2 else seconds))
            with contextlib.suppress(ProcessLookupError):        # it was quicker
                os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            if bad := broken(store):
                raise CheckFailed(f"after kill {number + 1}: {', '.join(bad)} can be read and is not whole")
            ears = [*store.folder.glob("*_*.npy")]
            begun += 0 < len(ears) < len(expected) // 2 - 1
            if number % 4 == 3:                                  # else there would soon be nothing to do
                for path in ears:
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink()
        run(*BUILD, "--cache-dir", "killed")
        if content(store.folder) != expected:
            raise CheckFailed("the cache of killed builds differs from the undisturbed one")
        cli.say(f"killed {args.kills} times, {begun} of them with some ears written and some not: equal byte for byte")

        builders = [subprocess.Popen(command(*BUILD, "--cache-dir", "shared"), stdout=subprocess.PIPE, text=True)
                    for _ in range(args.builders)]
        said = [build.communicate()[0] for build in builders]
        if any(build.returncode for build in builders):
            raise CheckFailed("a builder among several failed")
        made = [int(re.search(r"(\d+) made,", text)[1]) for text in said]  # type: ignore[index]
        if content(EarStore(Path("shared"), whole.spec).folder) != expected:
            raise CheckFailed("the cache of several builders differs from the undisturbed one")
        ears = sum(name.endswith(".npy") for name in expected)
        cli.say(f"{args.builders} builders at once made {' + '.join(map(str, made))} of {ears} ears: equal byte for byte")
        if sum(made) != ears:
            raise CheckFailed(f"{sum(made)} ears were made, expected each of {ears} once")
        os.chdir(ROOT)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

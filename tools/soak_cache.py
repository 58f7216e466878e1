"""Check that the cache survives builds that are killed at random moments, and several builds of one store at once.

    python tools/soak_cache.py                       # 100 kills, 8 builders: some 5 minutes
    python tools/soak_cache.py --kills 10 --builders 3

Draws a small synthetic hospital, builds its cache undisturbed, and compares the others with it byte for byte. After every kill,
each readable entry has to be complete. Exits with status 1 if anything differs.
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
    """Return the command line of a script."""
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]


def run(name: str, *words: str) -> str:
    """Run a script and return its output; raise CheckFailed if it fails."""
    done = subprocess.run(command(name, *words), capture_output=True, text=True)
    if done.returncode:
        raise CheckFailed(f"{name} exited with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a store, without those of a builder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in (LOCK, BUILDERS)}


def broken(store: EarStore) -> list[str]:
    """Return the entries that exist and are damaged."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in store.folder.glob("*.json") if path.name != "spec.json"]
    return [f"{ear['exam_id']} {ear['side']}" for ear in entries if not store.is_sound(ear["exam_id"], Side(ear["side"]))]


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--kills", type=cli.int_at_least(1), default=100, help="(default: 100)")
    parser.add_argument("--builders", type=cli.int_at_least(2), default=8, help="number of concurrent builders (default: 8)")
    parser.add_argument("--exams", type=cli.int_at_least(4), default=16, help="exams of the hospital (default: 16)")
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
                time.sleep(0.005)                                # every second kill while ears are written
            time.sleep(random.uniform(0, 0.2 * seconds if number % 2 else seconds))
            with contextlib.suppress(ProcessLookupError):        # it has ended already
                os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            if bad := broken(store):
                raise CheckFailed(f"after kill {number + 1}: {', '.join(bad)} can be read but is damaged")
            ears = [*store.folder.glob("*_*.npy")]
            begun += 0 < len(ears) < len(expected) // 2 - 1
            if number % 4 == 3:                                  # so that later builds have work left
                for path in ears:
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink()
        run(*BUILD, "--cache-dir", "killed")
        if content(store.folder) != expected:
            raise CheckFailed("the cache of killed builds differs from the undisturbed one")
        cli.say(f"killed {args.kills} times, {begun} of them with part of the ears written: equal byte for byte")

        builders = [subprocess.Popen(command(*BUILD, "--cache-dir", "shared"), stdout=subprocess.PIPE, text=True)
                    for _ in range(args.builders)]
        said = [build.communicate()[0] for build in builders]
        if any(build.returncode for build in builders):
            raise CheckFailed("one of several concurrent builders failed")
        made = [int(re.search(r"(\d+) made,", text)[1]) for text in said]  # type: ignore[index]
        if content(EarStore(Path("shared"), whole.spec).folder) != expected:
            raise CheckFailed("the cache of concurrent builders differs from the undisturbed one")
        count = sum(name.endswith(".npy") for name in expected)
        cli.say(f"{args.builders} concurrent builders made {' + '.join(map(str, made))} of {count} ears: equal byte for byte")
        if sum(made) != count:
            raise CheckFailed(f"{sum(made)} ears were made, expected each of {count} once")
        os.chdir(ROOT)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Check that the cache survives builds that are killed at random moments, and several builds of one store at once.

    python tools/soak_cache.py                       # 100 kills, 8 builders: some 5 minutes
    python tools/soak_cache.py --kills 10 --builders 3

Draws a small synthetic hospital, builds its cache undisturbed, and compares the others with it byte for byte. After every kill,
each readable entry has to be complete. Then the manifest gives every exam the series of another one, and the same is done with
these caches, which are stale. Exits with status 1 if anything differs.
"""
import contextlib
import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from medical_fenlei import cli, tables
from medical_fenlei.ears.store import BUILDERS, LOCK, EarStore, choose_store
from medical_fenlei.errors import CheckFailed
from medical_fenlei.vocabulary import Side

ROOT = Path(__file__).resolve().parents[1]
SPLITS = "artifacts/splits_dual_patient"
BUILD = ("build_cache_ears", "--splits-root", SPLITS, "--num-slices", "16", "--image-size", "64", "--crop-mm", "64")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["medical_fenlei.ears.build", "medical_fenlei.ears.localize", "pandera.pandas", "pebble"])
"""The server imports these once, so that a build is killed while it builds, and seldom while it imports."""


def start(name: str, *words: str, said: str = os.devnull) -> ForkServerProcess:
    """Start a script as a process group of its own, a fork of a server that has its libraries. said: for its output."""
    process = CONTEXT.Process(target=_execute, args=(os.getcwd(), name, words, said))
    process.start()
    return process


def _execute(folder: str, name: str, words: tuple[str, ...], said: str) -> None:
    """The main function of the process of a script."""
    os.setsid()
    os.chdir(folder)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    main = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))["main"]
    sys.exit(cli.run(lambda: main([*words])))


def run(name: str, *words: str) -> None:
    """Run a script; raise CheckFailed if it fails."""
    process = start(name, *words, said=f"{name}.log")
    process.join()
    if process.exitcode:
        raise CheckFailed(f"{name} exited with status {process.exitcode}: {Path(f'{name}.log').read_text().strip()}")


def workers(number: int) -> tuple[str, str]:
    """Return the flags of the n-th build: every third has a pool of workers, the others build in their own process."""
    return "--num-workers", "1" if number % 3 else "2"


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a store, without those of a builder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in (LOCK, BUILDERS)}


def broken(store: EarStore) -> list[str]:
    """Return the entries that exist and are damaged."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in store.folder.glob("*.json") if path.name != "spec.json"]
    return [f"{ear['exam_id']} {ear['side']}" for ear in entries if not store.is_sound(ear["exam_id"], Side(ear["side"]))]


def finished(store: EarStore, expected: dict[str, bytes]) -> int:
    """Return how many volumes of a store are as expected; a builder may be at work."""
    count = 0
    for path in store.folder.glob("*_*.npy"):
        with contextlib.suppress(FileNotFoundError):
            count += path.read_bytes() == expected[path.name]
    return count


def kill_builds(store: EarStore, expected: dict[str, bytes], *, kills: int, seconds: float, undo: Callable[[], object]) -> None:
    """Kill builds of a store at random moments, then complete it. Raises CheckFailed if anything is damaged or differs.

    seconds: what an undisturbed build takes. undo: called now and then, so that later builds have work left.
    """
    begun, count = 0, sum(name.endswith(".npy") for name in expected)
    for number in range(kills):
        build = start(*BUILD, *workers(number), "--cache-dir", str(store.folder.parent))
        before = finished(store, expected)
        while number % 2 and build.is_alive() and finished(store, expected) == before:
            time.sleep(0.005)                                    # every second kill while ears are written
        time.sleep(random.uniform(0, 0.2 * seconds if number % 2 else seconds))
        with contextlib.suppress(ProcessLookupError):            # it has ended already, or has no group yet
            os.killpg(build.pid, signal.SIGKILL)  # type: ignore[arg-type]
        build.kill()
        build.join()
        if bad := broken(store):
            raise CheckFailed(f"after kill {number + 1}: {', '.join(bad)} can be read but is damaged")
        begun += 0 < finished(store, expected) < count
        if number % 4 == 3:
            undo()
    run(*BUILD, *workers(0), "--cache-dir", str(store.folder.parent))
    if content(store.folder) != expected:
        raise CheckFailed("the cache of killed builds differs from the undisturbed one")
    cli.say(f"killed {kills} times, {begun} of them with part of the ears written: equal byte for byte")


def build_together(store: EarStore, expected: dict[str, bytes], *, builders: int) -> None:
    """Let several builders fill a store. Raises CheckFailed if it differs, or an ear was made twice."""
    logs = [Path(f"builder_{number}.log") for number in range(builders)]
    started = [start(*BUILD, *workers(number), "--cache-dir", str(store.folder.parent), said=str(log))
               for number, log in enumerate(logs)]
    for build in started:
        build.join()
    if any(build.exitcode for build in started):
        raise CheckFailed("one of several concurrent builders failed")
    said = [log.read_text() for log in logs]
    made = [int(re.search(r"(\d+) made,", text)[1]) for text in said]  # type: ignore[index]
    if content(store.folder) != expected:
        raise CheckFailed("the cache of concurrent builders differs from the undisturbed one")
    count = sum(name.endswith(".npy") for name in expected)
    cli.say(f"{builders} concurrent builders made {' + '.join(map(str, made))} of {count} ears: equal byte for byte")
    if sum(made) != count:
        raise CheckFailed(f"{sum(made)} ears were made, expected each of {count} once")


def exchange_series(manifest_csv: Path) -> None:
    """Give every exam of a manifest the series of the next one."""
    manifest = tables.MANIFEST.read(manifest_csv)
    for column in ("series_relpath", "series_digest"):
        manifest[column] = [*manifest[column][2:], *manifest[column][:2]]
    tables.MANIFEST.write(manifest_csv, manifest)


def build_undisturbed(name: str) -> tuple[EarStore, dict[str, bytes], float]:
    """Build a cache of this name. Returns it, its files, and the seconds that it took."""
    began = time.monotonic()
    run(*BUILD, *workers(1), "--cache-dir", name)
    store = choose_store(Path(name), None)
    cli.say(f"undisturbed: {len(content(store.folder))} files in {time.monotonic() - began:.1f} s")
    return store, content(store.folder), time.monotonic() - began


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
        whole, expected, seconds = build_undisturbed("whole")
        killed, shared = (EarStore(Path(name), whole.spec) for name in ("killed", "shared"))

        def remove_all() -> None:
            for path in killed.folder.glob("*_*.npy"):
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()

        kill_builds(killed, expected, kills=args.kills, seconds=seconds, undo=remove_all)
        build_together(shared, expected, builders=args.builders)

        exchange_series(Path("artifacts/manifest_ears.csv"))
        _, expected, seconds = build_undisturbed("whole_again")
        kill_builds(killed, expected, kills=args.kills // 2, seconds=seconds,
                    undo=lambda: shutil.copytree(whole.folder, killed.folder, dirs_exist_ok=True))
        build_together(shared, expected, builders=args.builders)
        os.chdir(ROOT)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""A map over many items: one that fails, crashes or hangs is reported with a reason, and the others are done."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medical_fenlei.errors import Rejected
from medical_fenlei.outcomes import DIED, TIMED_OUT, UNEXPECTED
from medical_fenlei.parallel import map_items


def fate(number):
    match number:
        case 3:
            os.abort()
        case 4:
            os.kill(os.getpid(), signal.SIGKILL)
        case 5:
            time.sleep(60)
        case 6:
            raise SystemExit(4)
        case 7:
            raise ZeroDivisionError("of Mr. Secret")
        case 8:
            raise Rejected("odd", "got 8")
    return number * number, os.getpid()


def test_an_item_that_kills_its_process_or_hangs_fails_alone_and_the_order_stays():
    outcomes = list(map_items(fate, range(12), workers=2, label="numbers", item_seconds=3))
    assert [outcome.item for outcome in outcomes] == list(range(12))
    reasons = ["", "", "", DIED, DIED, TIMED_OUT, UNEXPECTED, UNEXPECTED, "odd", "", "", ""]
    assert [outcome.reason for outcome in outcomes] == reasons
    assert [outcome.value[0] for outcome in outcomes if outcome.ok] == [0, 1, 4, 81, 100, 121]
    assert "SIGABRT" in outcomes[3].detail and "memory" in outcomes[4].detail and "3 s" in outcomes[5].detail
    assert "SystemExit" in outcomes[6].detail and "Secret" not in outcomes[7].detail


def test_workers_are_started_once_for_all_maps():
    workers = [{outcome.value[1] for outcome in map_items(fate, [0, 1, 2] * 20, workers=2, label="numbers")} for _ in range(2)]
    assert workers[0] == workers[1] and os.getpid() not in workers[0]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def pause(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_a_map_that_is_left_early_stops_its_workers():
    outcomes = map_items(pause, [0, 0, 30, 30], workers=2, label="pauses")
    worker = next(outcomes).value
    outcomes.close()
    began = time.monotonic()
    while not gone(worker) and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert gone(worker)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from medical_fenlei.parallel import map_items
from tests.test_parallel import pause
if __name__ == "__main__":
    for outcome in map_items(pause, [0, 0, 3, 3], workers=2, label="pauses"):
        print(outcome.value, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    root = Path(__file__).resolve().parents[1]
    (tmp_path / "main.py").write_text(SCRIPT.format(path=[str(root), str(root / "src")]))
    with subprocess.Popen([sys.executable, tmp_path / "main.py"], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        parent.kill()
        began = time.monotonic()
        while not all(map(gone, workers)) and time.monotonic() - began < 20:
            time.sleep(0.1)
        assert all(map(gone, workers))


def picky(number):
    if number == 2:
        raise Rejected("even_prime", "got 2")
    return 10 // number


@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_item_never_stops_a_batch(workers):
    outcomes = list(map_items(picky, [0, 1, 2, 5], workers=workers, label="numbers"))
    assert [o.item for o in outcomes] == [0, 1, 2, 5] and [o.value for o in outcomes] == [None, 10, None, 2]
    assert [o.reason for o in outcomes] == ["unexpected_error", "", "even_prime", ""]
    assert outcomes[0].detail.startswith("ZeroDivisionError at test_parallel.py:")


def map_two():
    assert all(outcome.ok for outcome in map_items(fate, [0, 1], workers=2, label="numbers"))


def fork_and_map():
    process = multiprocessing.get_context("fork").Process(target=map_two)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)


@pytest.mark.parametrize("work", [map_two, fork_and_map])
def test_a_process_of_multiprocessing_ends_with_its_workers(work):
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join(60)
    ended = process.exitcode
    process.kill()
    assert ended == 0

"""Jobs are forks of a process that only imports: each dies alone, all die with who ordered them, and they compute the same."""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import worker_tasks
from helpers.commands import ROOT

from medical_fenlei.errors import STOPPED, Stopped
from medical_fenlei.experiments.workers import ASKED, Work, WorkerProcesses
from medical_fenlei.outcomes import DIED

LIMIT = 60
"""Seconds after which something counts as hanging."""


def work(function="do", prepare="prepare", **options):
    return Work(f"helpers.worker_tasks:{function}", f"helpers.worker_tasks:{prepare}",
                **{"quiet": False, "threads": None, **options})


@pytest.fixture(autouse=True)
def heeded():
    """Signals are heeded, whatever an earlier test left: what this process ignores, those that it starts ignore too."""
    before = {number: signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
              for number in ASKED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def item(tmp_path):
    """Makes an item of this name."""
    return lambda name, **facts: {"name": name, "file": str(tmp_path / name), **facts}


def told(item):
    """What a job told, as soon as it has."""
    until = time.monotonic() + LIMIT
    while not os.path.exists(item["file"]):
        assert time.monotonic() < until
        time.sleep(0.01)
    return json.loads(Path(item["file"]).read_text())


def is_gone(process):
    """Whether a process ends."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


def all_outcomes(work, *items):
    """Run items side by side; return their outcomes by name."""
    found = {}
    with WorkerProcesses(work) as workers:
        for each in items:
            workers.start(each, name=each["name"])
        while workers.running:
            outcome = workers.next_outcome()
            found[outcome.item["name"]] = outcome
    return found


def test_jobs_begin_with_what_was_imported_once_in_the_folder_of_who_ordered_them(item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = item("one"), item("two")
    assert all(outcome.ok for outcome in all_outcomes(work("describe"), *items).values())
    one, two = map(told, items)
    assert one["starter"] == two["starter"] != os.getpid()
    assert (one["prepared"], two["prepared"]) == (["one"], ["one", "two"])
    assert one["blocked"] == [] and one["folder"] == str(tmp_path)


def test_the_starter_of_runs_has_imported_all_of_it_but_has_one_thread_and_has_not_asked_for_a_gpu(item, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")                    # or OpenBLAS had threads, which it ends itself at a fork
    own = item("one")
    assert all_outcomes(work("describe", "prepare_runs"), own)["one"].ok
    found = told(own)
    assert found["threads"] == 1 and found["asked"] == [] and found["libraries"] == ["torch", "timm", "monai", "torch._dynamo"]


def test_a_job_computes_the_same_bits_as_a_process_of_its_own(item, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)          # with all threads
    alone, forked, again = item("alone"), item("forked"), item("again")
    subprocess.run([sys.executable, "-m", "helpers.worker_tasks", alone["file"]], check=True, timeout=LIMIT,
                   env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"})
    assert all(outcome.ok for outcome in all_outcomes(work("compute", "import_computing"), forked, again).values())
    assert told(alone) == told(forked) == told(again)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_job_that_dies_does_not_harm_the_others(item, number):
    found = all_outcomes(work(), item("before"), item("dies", signal=number), item("beside", seconds=0.2), item("after"))
    assert found["dies"].reason == DIED and f"signal {number.name}" in found["dies"].detail
    assert [found[name].ok for name in ("before", "beside", "after")] == [True] * 3


def test_jobs_die_with_the_process_that_ordered_them(item):
    items = item("one", seconds=LIMIT), item("two", seconds=LIMIT)
    orders = multiprocessing.get_context("spawn").Process(target=worker_tasks.order, args=(work(), items))
    orders.start()
    found = [told(each) for each in items]
    orders.kill()
    orders.join()
    assert all(is_gone(process) for process in (*(own["process"] for own in found), found[0]["starter"]))


def test_when_the_starter_is_killed_its_jobs_have_died_and_the_next_has_another_starter(item):
    items = item("one", seconds=LIMIT), item("two", seconds=LIMIT)
    with WorkerProcesses(work()) as workers:
        for each in items:
            workers.start(each, name=each["name"])
        found = [told(each) for each in items]
        os.kill(found[0]["starter"], signal.SIGKILL)
        assert [workers.next_outcome().reason for _ in items] == [DIED] * 2 and workers.running == 0
        assert all(is_gone(own["process"]) for own in found)
        workers.start(item("three"), name="three")
        assert workers.next_outcome().ok


def test_signals_to_the_starter_are_left_to_the_jobs(item):
    with WorkerProcesses(work()) as workers:
        waiting = item("waiting", seconds=LIMIT)
        workers.start(waiting, name="waiting")
        own = told(waiting)
        for number in ASKED:
            os.kill(own["starter"], number)
        workers.start(item("next"), name="next")
        assert workers.next_outcome().item["name"] == "next"
        os.kill(own["process"], signal.SIGTERM)
        with pytest.raises(Stopped, match="waiting is saved"):
            workers.next_outcome()


@pytest.mark.parametrize(("place", "after"), [
    ("medical_fenlei.experiments.workers:_start_starter", False), ("medical_fenlei.experiments.workers:_start_starter", True),
    ("medical_fenlei.experiments.workers:WorkerProcesses.next_outcome", False),
    ("multiprocessing.connection:Connection.send", False), ("multiprocessing.connection:Connection.send", True)])
def test_an_interrupt_of_the_ordering_process_alone_is_silent_wherever_it_arrives(item, place, after):
    waiting = item("waiting", seconds=LIMIT)
    words = [sys.executable, "-m", "helpers.worker_tasks", waiting["file"], place, str(int(after))]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, start_new_session=True,
                           env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"})
    assert (ended.returncode, ended.stdout) == (STOPPED, "") and ended.stderr.splitlines() == [
        "worker_tasks: stopped; what was finished is kept; run it again to go on"]
    if Path(waiting["file"]).exists():
        assert is_gone(told(waiting)["process"])


def test_a_starter_whose_orders_are_gone_ends_in_silence_with_its_jobs(item, capfd):
    waiting = item("waiting", seconds=LIMIT)
    workers = WorkerProcesses(work())
    workers.start(waiting, name="waiting")
    own, (orders, starter) = told(waiting), workers._starter
    orders.close()
    starter.join(LIMIT)
    assert starter.exitcode == 0 and is_gone(own["process"]) and capfd.readouterr() == ("", "")


def test_leaving_early_stops_the_jobs(item):
    waiting = item("waiting", seconds=LIMIT)
    with pytest.raises(KeyboardInterrupt), WorkerProcesses(work()) as workers:
        workers.start(waiting, name="waiting")
        own = told(waiting)
        raise KeyboardInterrupt
    assert is_gone(own["process"]) and is_gone(own["starter"])

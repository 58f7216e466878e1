"""Several runs, in turn or some at once, as one study that can be killed at any moment and started again.

Each run has a process of its own, so that what ends one (no memory, a broken driver) does not end the others. `state.json` says
what became of each; the folder of a run is the run's own.
"""
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from medical_fenlei import settings
from medical_fenlei.config import DUAL, EAR2D, RunConfig, deciding
from medical_fenlei.errors import STOPPED, CheckFailed, Rejected, Stopped, UserError
from medical_fenlei.files import write_json
from medical_fenlei.log import LOG
from medical_fenlei.parallel import Outcome, attempt, default_workers
from medical_fenlei.runs import Run
from medical_fenlei.signals import stop_on_signals
from medical_fenlei.training.run import resume_run, start_run

REPORTED = "val"
"""The set on which each run is reported."""
SCRIPTS = {EAR2D: "scripts/train_ear2d.py", DUAL: "scripts/train_dual.py"}


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    folder: Path
    config: RunConfig
    """With the preprocessing of the cache that it takes."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result."""
        return deciding(self.config)

    def command(self, route: RunConfig) -> list[str]:
        """The command line that gives the same run."""
        flags = settings.to_flags(self.config, base=route, always=("num_slices",))   # names the cache, whatever else is there
        return ["python", SCRIPTS[self.config.kind], *flags, "--output-dir", str(self.folder)]


class Study:
    """The jobs of one folder and what became of them."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self.folder, self.jobs = folder, tuple(jobs)

    @property
    def state_json(self) -> Path:
        return self.folder / "state.json"

    def state(self) -> dict[str, dict[str, Any]]:
        """Of each job that was begun: `status` (running, done, failed), `reason`, `settings`."""
        if not self.state_json.is_file():
            return {}
        state: dict[str, dict[str, Any]] = json.loads(self.state_json.read_text(encoding="utf-8"))
        return state

    def run(self, *, at_once: int = 1) -> None:
        """Run what is not done, so many at once. A failed run is noted and passed over, and tried again the next time.

        Raises UserError if the folder holds a job of that name with other settings, or another process works on it; Stopped on
        a signal.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            state = self.state()
            for job in self.jobs:
                known = state.get(job.name)
                if known and known["settings"] != job.settings:
                    raise UserError(f"--output-dir {self.folder}: holds {job.name} with other settings; name another folder")
            todo = deque[Job]()
            for number, job in enumerate(self.jobs, 1):
                if state.get(job.name, {}).get("status") == "done":
                    LOG.info("%s", f"[{number}/{len(self.jobs)}] {job.name}: done before")
                else:
                    todo.append(job)
            with _Apart(quiet=at_once > 1, threads=max(1, default_workers() // at_once) if at_once > 1 else None) as apart:
                while todo or apart.jobs:
                    while todo and len(apart.jobs) < at_once:
                        job = todo.popleft()
                        LOG.info("%s", f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.name}"
                                + (f"; tail -f {Run(job.folder).folder / 'train.log'}" if at_once > 1 else ""))
                        self._note(state, job, "running")
                        apart.start(job)
                    outcome = apart.next_outcome()
                    job = outcome.item
                    self._note(state, job, "done" if outcome.ok else "failed", f"{outcome.reason}: {outcome.detail}")
                    if not outcome.ok:
                        LOG.warning("%s", f"{job.name} failed: {outcome.reason}: {outcome.detail}")

    def _note(self, state: dict[str, dict[str, Any]], job: Job, status: str, reason: str = "") -> None:
        state[job.name] = {"status": status, "reason": reason if status == "failed" else "",
                           "settings": job.settings}
        write_json(self.state_json, state)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second process on the same study; the system lets go of the lock when a process dies."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--output-dir {folder}: another process is working on it") from None
        yield


class _Apart:
    """Jobs that train and evaluate in processes of their own, which do not outlive this one: left early, it stops them, and
    each saves what it has."""

    def __init__(self, *, quiet: bool, threads: int | None) -> None:
        """quiet: they say nothing but in their logs; threads: of each on the processor (default: the library's own)."""
        self.jobs: dict[Connection, tuple[Job, SpawnProcess]] = {}
        self._quiet, self._threads = quiet, threads

    def __enter__(self) -> "_Apart":
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self.jobs.values():
            process.terminate()
        for _, process in self.jobs.values():
            process.join()

    def start(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, sender, self._quiet, self._threads), name=job.name)
        process.start()
        sender.close()
        self.jobs[receiver] = job, process

    def next_outcome(self) -> Outcome[Job, None]:
        """Of the first that ends. Raises Stopped where a signal ended it."""
        receiver = next(ready for ready in wait(list(self.jobs)) if isinstance(ready, Connection))
        job, process = self.jobs.pop(receiver)
        try:
            outcome: Outcome[Job, None] = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode == STOPPED:
                raise Stopped(f"{job.name} is saved; the same command goes on") from None
            code = process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            how += "; killed for its memory?" if code == -signal.SIGKILL else ""
            return Outcome(job, reason="process_died", detail=how)
        process.join()
        return outcome


def _work(job: Job, answer: Connection, quiet: bool, threads: int | None) -> None:
    """What the process of a job does."""
    stop_on_signals()
    if quiet:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    if threads:
        import torch

        torch.set_num_threads(threads)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        answer.send(attempt(_train_and_evaluate, job))
    except KeyboardInterrupt:
        raise SystemExit(STOPPED) from None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _train_and_evaluate(job: Job) -> None:
    """Go on with the run if it was begun. Raises Rejected with what the user can do about it."""
    from medical_fenlei.evaluation.evaluate import evaluate
    from medical_fenlei.evaluation.report import write_evaluation
    from medical_fenlei.run_report.page import write_page, write_training_report
    from medical_fenlei.trained.network import open_trained

    run, config = Run(job.folder), job.config
    began = time.monotonic()
    try:
        if run.config_json.is_file():
            resume_run(job.folder, kind=config.kind, report=write_training_report)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)        # what a kill left of its beginning
            start_run(config, job.folder, report=write_training_report)
        trained = open_trained(run.checkpoint("best"), kind=config.kind, device=config.training.device)
        for result in evaluate(trained, config.data, REPORTED):
            write_evaluation(result, run.reports)
        write_page(run)
    except (UserError, CheckFailed) as error:
        raise Rejected("not_possible" if isinstance(error, UserError) else "check_failed", str(error)) from None
    except Stopped:                                              # no failure, which `attempt` would take it for
        raise SystemExit(STOPPED) from None
    LOG.info("%s", f"{job.name}: done in {time.monotonic() - began:.0f} s")

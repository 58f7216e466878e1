"""A study: several runs, in turn or in parallel, that can be killed at any moment and started again.

Each run has a process of its own (`experiments/workers.py`) and a folder of its own. `state.json` records their status.
"""
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medical_fenlei import settings, tables
from medical_fenlei.config import DUAL, EAR2D, RunConfig, decisive_settings
from medical_fenlei.errors import UserError
from medical_fenlei.exclusive import LOCK, exclusive
from medical_fenlei.experiments.workers import Work, WorkerProcesses
from medical_fenlei.files import write_json
from medical_fenlei.log import LOG
from medical_fenlei.outcomes import Outcome
from medical_fenlei.parallel import default_workers
from medical_fenlei.runs import Run

REPORTED_SET = "val"
"""The set on which each run is evaluated."""
ONE_RUN = "medical_fenlei.experiments.one_run"
"""The module of what a run does. The runs' processes import it, and torch with it; this one does not."""
SCRIPTS = {EAR2D: "scripts/train_ear2d.py", DUAL: "scripts/train_dual.py"}
"""The training script of each route."""

Status = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    folder: Path
    """The run's folder, whose name is the name of the job."""

    config: RunConfig
    """Settings of the run, with the preprocessing of the cache to use."""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the result."""
        return decisive_settings(self.config)

    def command(self, route: RunConfig) -> list[str]:
        """Return the command line of the same run."""
        flags = settings.to_flags(self.config, base=route, always=("num_slices",))   # identifies the cache if there are several
        return ["python", SCRIPTS[self.config.kind], *flags, "--output-dir", str(self.folder)]


class Study:
    """The jobs of one folder and their status."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self.folder, self.jobs = folder, tuple(jobs)

    @property
    def state_json(self) -> Path:
        """The file that records the status of each job."""
        return self.folder / "state.json"

    def state(self) -> dict[str, dict[str, Any]]:
        """Return `status` (running, done, failed), `reason` and `settings` of each job that was started, by name.

        Raises UserError if the file is damaged.
        """
        if not self.state_json.is_file():
            return {}
        return {name: dict(own) for name, own in tables.STUDY_STATE.read(self.state_json).items()}

    def done(self) -> tuple[Job, ...]:
        """Return the jobs that are done."""
        state = self.state()
        return tuple(job for job in self.jobs if state.get(job.name, {}).get("status") == "done")

    def run(self, *, parallel: int = 1) -> None:
        """Run every job that is not done, `parallel` jobs at a time.

        A job that fails is recorded, and run again the next time; the others continue. Raises UserError if the folder holds a
        job of the same name with other settings, or another process works on it; Stopped if a signal stopped a job.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / LOCK, busy=f"--output-dir {self.folder}: another process is working on it",
                       remedy="wait for it, or name another folder"):
            state = self.state()
            self._refuse_other_settings(state)
            self._refuse_others_files(state)
            waiting = deque(self._unfinished(state))
            threads = max(1, default_workers() // parallel) if parallel > 1 else None
            work = Work(f"{ONE_RUN}:train_and_evaluate", f"{ONE_RUN}:import_libraries", quiet=parallel > 1, threads=threads)
            with WorkerProcesses[Job](work) as workers:
                while waiting or workers.running:
                    while waiting and workers.running < parallel:
                        job = waiting.popleft()
                        follow = f"; tail -f {Run(job.folder).train_log}" if parallel > 1 else ""
                        LOG.info("%s %s%s", self._number(job), job.name, follow)
                        self._record(state, job, "running")
                        workers.start(job, name=job.name)
                    self._finish(state, workers.next_outcome())

    def _refuse_other_settings(self, state: dict[str, dict[str, Any]]) -> None:
        for job in self.jobs:
            if job.name in state and state[job.name]["settings"] != job.settings:
                raise UserError(f"--output-dir {self.folder}: holds {job.name} with other settings; name another folder")

    def _refuse_others_files(self, state: dict[str, dict[str, Any]]) -> None:
        """Raise UserError if the folder of a job holds files, or a run with other settings, that are not of this study."""
        for job in self.jobs:
            run = Run(job.folder)
            run.refuse_others_files()
            if job.name not in state and run.config_json.exists():
                there = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
                if decisive_settings(there) != job.settings:
                    raise UserError(f"--output-dir {self.folder}: {job.name} in it is a run with other settings; name another "
                                    "folder")

    def _unfinished(self, state: dict[str, dict[str, Any]]) -> Iterator[Job]:
        for job in self.jobs:
            if state.get(job.name, {}).get("status") == "done":
                LOG.info("%s %s: done before", self._number(job), job.name)
            else:
                yield job

    def _number(self, job: Job) -> str:
        """The number of a job among all, as `[2/5]`."""
        return f"[{self.jobs.index(job) + 1}/{len(self.jobs)}]"

    def _finish(self, state: dict[str, dict[str, Any]], outcome: Outcome[Job, None]) -> None:
        """Record the outcome of a job."""
        if outcome.ok:
            self._record(state, outcome.item, "done")
            return
        reason = f"{outcome.reason}: {outcome.detail}"
        self._record(state, outcome.item, "failed", reason)
        LOG.warning("%s failed: %s", outcome.item.name, reason)

    def _record(self, state: dict[str, dict[str, Any]], job: Job, status: Status, reason: str = "") -> None:
        state[job.name] = {"status": status, "reason": reason, "settings": job.settings}
        write_json(self.state_json, state)

"""A Dask cluster writes the same files as local processes, and an item that ends its worker fails alone."""
import json
import os
import subprocess
import sys
import time

import pytest
from helpers.commands import ROOT, run
from helpers.small_study import SPLITS
from test_data_scripts import SPEC_FLAGS, hospital, write_exam  # noqa: F401 (a fixture)
from test_parallel import fate

from medical_fenlei import cluster as cluster_module
from medical_fenlei.errors import UserError
from medical_fenlei.outcomes import DIED, UNEXPECTED
from medical_fenlei.parallel import map_items

QUIET = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "error", "OMP_NUM_THREADS": "1",
         "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False"}
CODE = f"{ROOT / 'src'}:{ROOT / 'tests'}"


def until(what, seconds=30.0):
    began = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - began < seconds
        time.sleep(0.1)
    return found


def without_the_code(folder):
    """A PYTHONPATH by which the package cannot be imported, even where it is installed."""
    package = folder / "broken" / "medical_fenlei"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError\n", encoding="utf-8")
    return package.parent


class Cluster:
    """A scheduler and its workers, as one starts them by hand, on the loopback address."""

    def __init__(self, folder, path=CODE):
        self._folder, self._file = folder, folder / "scheduler.json"
        self._started = [self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self._file,
                                     PYTHONPATH=path)]
        self.address = until(self._said)

    def _start(self, module, *words, **environment):
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", f"distributed.cli.{module}", *map(str, words), "--no-dashboard"],
                                    stdout=log, stderr=log, env={**QUIET, **environment}, cwd=self._folder)

    def _said(self):
        try:
            return json.loads(self._file.read_text())["address"]
        except (FileNotFoundError, ValueError):
            return None

    def worker(self, *words, path=CODE):
        self._started.append(self._start("dask_worker", self.address, "--host", "127.0.0.1", "--local-directory", self._folder,
                                         *(words or ("--nthreads", "1")), PYTHONPATH=path))

    def ready(self, workers):
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def stop(self):
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            process.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    for _ in range(2):
        found.worker()
    found.ready(2)
    yield found
    found.stop()


def test_an_item_that_ends_its_worker_or_hangs_fails_alone_and_the_order_stays(cluster):
    outcomes = list(map_items(fate, range(12), workers=cluster.address, label="numbers", item_seconds=3))
    assert [outcome.item for outcome in outcomes] == list(range(12))
    reasons = ["", "", "", DIED, DIED, DIED, UNEXPECTED, UNEXPECTED, "odd", "", "", ""]
    assert [outcome.reason for outcome in outcomes] == reasons
    assert [outcome.value[0] for outcome in outcomes if outcome.ok] == [0, 1, 4, 81, 100, 121]
    assert len({outcome.value[1] for outcome in outcomes if outcome.ok} - {os.getpid()}) >= 2


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            and "_scan" not in path.name}


def test_index_manifest_and_cache_are_the_same_bytes_as_by_local_processes(cluster, hospital, tmp_path, monkeypatch):  # noqa: F811
    made = []
    for name, words in (("here", ("--num-workers", 1)), ("there", ("--cluster", cluster.address))):
        folder = tmp_path / name
        folder.mkdir()
        for linked in ("data", "metadata"):
            (folder / linked).symlink_to(hospital / linked)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        assert run("build_index", *words) == run("build_manifest_ears", *words) == 0
        assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split") == 0
        assert run("build_cache_ears", "--splits-root", SPLITS, *SPEC_FLAGS, *words) == 0
        assert run("build_cache_dual", "--splits-root", SPLITS, *SPEC_FLAGS[:4], *words) == 0
        made.append(files(folder / "artifacts") | files(folder / "cache"))
    assert made[0] == made[1] and len(made[0]) > 40


def says(words, address):
    with pytest.raises(UserError, match=words):
        list(map_items(abs, [1], workers=address, label="numbers"))


def test_a_cluster_that_cannot_do_the_work_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT", "3s")
    empty = Cluster(tmp_path)
    try:
        says("no Dask scheduler answers", "tcp://127.0.0.1:1")
        says("no Dask scheduler answers", "nonsense")
        says("has no workers", empty.address)
        empty.worker(path=without_the_code(tmp_path))
        empty.ready(1)
        says("worker .* cannot import medical_fenlei", empty.address)
        empty.worker("--nthreads", "2")
        empty.ready(2)
        says("has 2 threads|cannot import medical_fenlei", empty.address)
        empty.worker()                                           # one that can is enough
        empty.ready(3)
        assert [outcome.value for outcome in map_items(abs, [-1, 2], workers=empty.address, label="numbers")] == [1, 2]
    finally:
        empty.stop()
    assert list(map_items(abs, [], workers="tcp://127.0.0.1:1", label="numbers")) == []


def test_a_scheduler_without_the_code_is_one_line(tmp_path):
    strange = Cluster(tmp_path, without_the_code(tmp_path))
    try:
        says("its scheduler cannot import medical_fenlei", strange.address)
    finally:
        strange.stop()


def test_workers_that_do_not_see_the_folder_are_named(cluster, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(os, "getcwd", lambda: str(gone))
    with pytest.raises(UserError, match="does not see"):
        list(map_items(abs, [1], workers=cluster.address, label="numbers"))

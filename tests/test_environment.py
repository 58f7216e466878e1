"""A script states in one line what it lacks, and env.sh installs it once."""
import os
import resource
import subprocess
import sys

import pytest
from helpers.commands import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
BARE = [sys.executable, "-S", "-E"]
"""This interpreter with the standard library alone: neither site-packages nor PYTHONPATH."""


def ran(words, **options):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_needs_nothing_but_python_and_half_a_second_of_its_time(script, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = ran([*BARE, script, "--help"], cwd=tmp_path)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 0.5       # of the processor, whatever else runs
    assert said.returncode == 0 and f"python scripts/{script.name}" in said.stdout, said.stderr


@pytest.mark.parametrize("name", ["build_index", "train_ear2d", "qa_manifest_ears", "run_seeds_ear2d"])
def test_without_the_libraries_a_command_is_one_line_that_says_what_to_do(name, tmp_path):
    said = ran([*BARE, ROOT / f"scripts/{name}.py"], cwd=tmp_path)
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1
    assert f"{name}: {sys.executable} has no module " in said.stderr and "source tools/env.sh" in said.stderr


def test_an_import_error_of_the_package_itself_keeps_its_traceback(tmp_path):
    code = "from medical_fenlei import cli\ndef main():\n    import medical_fenlei.nowhere\ncli.run(main)"
    said = ran([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert "Traceback" in said.stderr and "medical_fenlei.nowhere" in said.stderr


def test_an_old_python_is_one_line_that_says_what_to_do(tmp_path):
    old = "import sys; sys.version_info = (3, 9, 0); import medical_fenlei"
    said = ran([sys.executable, "-c", old], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1 and "source tools/env.sh" in said.stderr


def test_a_script_takes_the_package_of_its_own_checkout(tmp_path):
    (tmp_path / "medical_fenlei").mkdir()
    (tmp_path / "medical_fenlei/__init__.py").write_text("raise RuntimeError('another checkout')")
    said = ran([sys.executable, SCRIPTS[0], "--help"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert said.returncode == 0, said.stderr


def test_env_sh_installs_the_package_unless_a_checkout_that_exists_is_installed(tmp_path):
    """With an environment that is complete but for the package, and a `python` that notes how it is called."""
    calls, site = tmp_path / "calls", tmp_path / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "bin/python").chmod(0o755)
    stamp = ran(["bash", "-c", "cat requirements*.txt requirements.lock | cksum | cut -d' ' -f1"], cwd=ROOT).stdout.strip()
    (tmp_path / f".installed-{stamp}").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MF_")}
    link, installs = site / "__editable__.medical_fenlei-0.1.0.pth", []
    for pointing_to in (None, ROOT / "src", tmp_path / "gone/src"):
        if pointing_to:
            link.write_text(str(pointing_to))
        said = ran(["bash", "-c", "source tools/env.sh && echo $PYTHONPATH"], cwd=ROOT,
                   env={**environment, "MF_VENV": str(tmp_path), "PYTHONPATH": "/other"})
        assert said.returncode == 0 and said.stdout == f"{ROOT / 'src'}:/other\n", said.stderr
        installs.append(calls.read_text().count(f"--no-deps -e {ROOT}\n"))
    assert installs == [1, 1, 2]


def test_env_sh_finishes_an_installation_that_was_interrupted(tmp_path):
    """With a venv that has no pip yet, as a kill leaves it, and a MF_PYTHON that completes it."""
    venv, calls, maker = tmp_path / "venv", tmp_path / "calls", tmp_path / "python"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin/python").write_text("#!/bin/sh\nexit 1\n")
    maker.write_text(f'#!/bin/sh\ncase "$2" in venv) echo made >> {calls}; cp {tmp_path}/done "$3/bin/python";; esac\n')
    (tmp_path / "done").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    for path in (venv / "bin/python", maker, tmp_path / "done"):
        path.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MF_")}
    for times in (1, 2):
        said = ran(["bash", "-c", "source tools/env.sh"], cwd=ROOT,
                   env={**environment, "MF_VENV": str(venv), "MF_PYTHON": str(maker)})
        assert said.returncode == 0 and len(list(venv.glob(".installed-*"))) == 1, (times, said.stderr)
    said = calls.read_text()
    assert said.count("made") == 1 and said.count("requirements-dev.txt") == 1


def test_env_sh_does_not_write_into_a_folder_of_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    said = ran(["bash", "-c", "source tools/env.sh"], cwd=ROOT, env={**os.environ, "MF_VENV": str(tmp_path)})
    assert said.returncode == 1 and "holds files, but no environment" in said.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_demo_helps_before_it_installs_anything(tmp_path):
    environment = {"PATH": os.environ["PATH"], "MF_VENV": str(tmp_path / "none")}
    helped, refused = (ran(["bash", "tools/demo.sh", word], cwd=ROOT, env=environment) for word in ("--help", "--fast"))
    assert helped.returncode == 0 and "MF_EXAMS" in helped.stdout and helped.stderr == ""
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())

"""A run that is killed, asked to stop or out of disk space is resumed and ends with the bits of an uninterrupted one."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from helpers.commands import ROOT
from helpers.processes import Interruption, exit_status, output_of, start, start_two_ranks
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study

from medical_fenlei.config import EAR2D, EarSpec
from medical_fenlei.training.checkpoint import read_checkpoint

EPOCHS, STEPS = 4, 3
TRAIN = ("train_ear2d", "--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100,
         "--batch-size", 4, "--backbone", "test_resnet", "--dropout", 0.3, "--epochs", EPOCHS, "--patience", 0, "--seed", 8,
         "--lr", 1e-3, "--early-stop-metric", "loss")
KEPT = {"each epoch": (),
        "each step": ("--save-minutes", 0, "--ema", 0.7, "--grad-accum", 2, "--precision", "bf16", "--keep-last", 3)}
"""Flags of a run by how often it saves."""
OWN = {"seconds", "ears_per_s", "waited", "memory_gb"}
"""Metrics that depend on the machine."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tune = {f"exam_{letter}": codes for letter, codes in zip("ghklmn", [(5, 1), (2, 5), (6, 3), (5, 4), (1, 5), (5, 2)],
                                                             strict=True)}      # enough that a measure chooses the epoch
    sets = {"train": codes_in_turn("abcdef"), "tune": tune, "val": codes_in_turn("ij")}
    write_study(folder, sets, EarSpec(num_slices=4, image_size=32, extent="half"))
    return folder


@pytest.fixture(scope="module")
def whole(study):
    """Returns the folder of an uninterrupted run with these flags, of one rank or of two."""
    made = {}

    def of(*flags, ranks=1):
        if (flags, ranks) not in made:
            words = (*TRAIN, *flags, "--output-dir", f"outputs/whole_{len(made)}")
            processes = [start(study, *words)] if ranks == 1 else start_two_ranks(study, *words)
            assert {exit_status(process) for process in processes} == {0}, output_of(study)
            made[flags, ranks] = study / words[-1]
        return made[flags, ranks]

    return of


def content(folder, name):
    return torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)


def alike(one, other):
    """Return whether two values are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other or (one != one and other != other)


def same_bits(whole, run):
    """Fails unless checkpoints and metrics are those of the other."""
    for name in ("best", "last", "last-1"):
        one, other = content(whole, name), content(run, name)
        for part in one:
            assert alike(one[part], other[part]), f"{name}: {part}"
    lines = [[{name: value for name, value in json.loads(line).items() if name not in OWN}
              for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, run)]
    assert [line["epoch"] for line in lines[1]] == [*range(1, EPOCHS + 1)] and alike(*lines)


def ends_as(whole, run):
    """Fails unless the run has all that the other has, and no more."""
    same_bits(whole, run)
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "tensorboard" not in path.parts)
             for folder in (whole, run)]
    assert names[0] == names[1]
    for path in whole.glob("reports/epoch_*.json"):              # report.json holds the run's name and how long it took
        assert path.read_text() == (run / "reports" / path.name).read_text()


def sound(run):
    """Read every checkpoint; return the progress of the last one: (epoch, step)."""
    each = {path.stem: read_checkpoint(path, kind=EAR2D) for path in (run / "checkpoints").glob("*.pt")}
    if "last" not in each:
        return 0, 0
    return each["last"].epoch, each["last"].state["progress"]["step"]


CONFIG, LINE = "medical_fenlei.runs:Run.write_config", "medical_fenlei.runs:Run.add_metrics"
STEP, BACKWARD, ADAM = "medical_fenlei.training.step:Stepper.__call__", "torch:Tensor.backward", "torch.optim:AdamW.step"
MEASURE, BOARD = "medical_fenlei.training.predict:forward_blocks", "torch.utils.tensorboard:SummaryWriter.add_scalar"
WRITE, BACK = "medical_fenlei.training.loop:write_checkpoint", "medical_fenlei.training.loop:rotate_checkpoints"
FLUSH, RENAME, LINK = "os:fsync", "os:replace", "os:link"
CURVES = "medical_fenlei.run_report.curves:plot_training"

KILLS = {
    "before a step": Interruption(STEP, nth=2),
    "in the forward pass": Interruption("medical_fenlei.models.ear2d:Ear2d.forward", nth=2),
    "in the backward pass": Interruption(BACKWARD, nth=2),
    "in a step, with new weights": Interruption(ADAM, nth=2, after=True),
    "after a step": Interruption(STEP, nth=2, after=True),
    "measuring the tune set": Interruption(MEASURE),
    "before the line of metrics": Interruption(LINE),
    "between the line and the checkpoint": Interruption(LINE, after=True),
    "writing to TensorBoard": Interruption(BOARD, nth=3),
    "before a checkpoint": Interruption(WRITE),
    "with a file written, not renamed": Interruption(RENAME, nth=3),
    "with a file written, not flushed": Interruption(FLUSH, nth=3),
    "between best and last": Interruption(BACK),
    "between rotation and the checkpoint": Interruption(BACK, after=True),
    "in the rotation": Interruption(LINK),
    "in the rotation, linked, not renamed": Interruption(LINK, after=True),
}


def resume(study, folder, *interruptions):
    return start(study, "train_ear2d", "--resume", folder, interruptions=interruptions)


@pytest.mark.parametrize("kept", KEPT)
def test_a_run_killed_at_each_place_ends_like_an_uninterrupted_one(study, whole, kept):
    folder = study / f"outputs/killed {kept}"
    words = (*TRAIN, *KEPT[kept], "--output-dir", folder)
    for interruption in (Interruption(CONFIG), Interruption(CONFIG, after=True)):    # the second has begun a run
        assert exit_status(start(study, *words, interruptions=[interruption])) == -signal.SIGKILL, output_of(study)
    came = []
    first = [*KILLS.items()][::2 if kept == "each epoch" else 99]                         # there, before any checkpoint
    for name, interruption in (*first, *KILLS.items()):
        assert exit_status(resume(study, folder, interruption)) == -signal.SIGKILL, (name, came, output_of(study))
        came.append((name, sound(folder)))
    for interruption in (Interruption(CURVES), Interruption(FLUSH, nth=2)):    # trained, but the curves not drawn
        assert exit_status(resume(study, folder, interruption)) == -signal.SIGKILL, (came, output_of(study))
    assert sound(folder) == (EPOCHS, 0) and not (folder / "reports/curves.png").exists()
    assert exit_status(resume(study, folder)) == 0, output_of(study)
    ends_as(whole(*KEPT[kept]), folder)
    assert 1 < content(folder, "best")["epoch"] < EPOCHS          # or it would prove little


@pytest.mark.parametrize("kept", KEPT)
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(study, whole, kept):
    folder, moments, came = study / f"outputs/shot {kept}", random.Random(len(kept)), []
    words = (*TRAIN, *KEPT[kept], "--output-dir", folder)
    assert exit_status(start(study, *words, interruptions=[Interruption(STEP)])) == -signal.SIGKILL
    while came.count(-signal.SIGKILL) < 5 and 0 not in came:
        process = resume(study, folder)
        time.sleep(moments.uniform(0.1, 1))
        process.kill()
        came.append(exit_status(process))
        sound(folder)
    assert exit_status(resume(study, folder)) == 0, (came, output_of(study))
    ends_as(whole(*KEPT[kept]), folder)


def test_two_ranks_of_which_one_is_killed_both_stop_and_then_end_like_uninterrupted_ones(study, whole):
    folder, chance, flags = study / "outputs/widowed", random.Random(2), KEPT["each step"]
    words = (*TRAIN, *flags, "--output-dir", folder)
    for killed in ((1,), (0,), (0, 1)):
        place = chance.choice([STEP, ADAM, BACKWARD, MEASURE, WRITE if killed == (0,) else STEP])
        interruption = Interruption(place, nth=chance.randint(1, 4), after=chance.random() < 0.5)
        processes = start_two_ranks(study, *words, interruptions={rank: [interruption] for rank in killed})
        words = ("train_ear2d", "--resume", folder)
        for rank, process in enumerate(processes):
            status = exit_status(process)
            text = output_of(study, rank)
            assert status == (-signal.SIGKILL if rank in killed else 1), (interruption, killed, text)
            if status == 1:
                assert "Traceback" not in text and text.count("another process of the run is gone") == 1, text
        sound(folder)
    assert [exit_status(process) for process in start_two_ranks(study, *words)] == [0, 0], output_of(study)
    ends_as(whole(*flags, ranks=2), folder)


BEGINNING = {
    "reading the cache's settings": Interruption("medical_fenlei.commands.train:with_cache"),
    "building the network": Interruption("medical_fenlei.training.run:build_model"),
    "finding the ears": Interruption("medical_fenlei.training.run:find_ears"),
    "loading the ears": Interruption("medical_fenlei.data.storage:DiskStorage.read", nth=5),
    "writing the settings": Interruption(RENAME),
    "after the settings": Interruption(CONFIG, after=True),
}
TRAINING = {                                                      # and how far the run has come when it leaves
    "in a step": (Interruption(ADAM, nth=2), (0, 2)),
    "building the network": (BEGINNING["building the network"], (0, 2)),
    "loading the ears": (BEGINNING["loading the ears"], (0, 2)),
    "keeping the lines of metrics": (Interruption(RENAME), (0, 2)),
    "beginning": (Interruption("medical_fenlei.training.logger:TrainingLogger.log_start"), (0, 3)),
    "measuring the tune set": (Interruption(MEASURE), (0, 3)),
    "writing the line of metrics": (Interruption(LINE), (1, 0)),
    "writing to TensorBoard": (Interruption(BOARD, nth=2), (2, 0)),
    "between best and last": (Interruption(BACK), (3, 0)),
    "writing the last checkpoint": (Interruption(BACK, after=True), (4, 0)),
    "drawing curves": (Interruption(CURVES), (4, 0)),
    "writing curves": (Interruption(FLUSH, nth=2), (4, 0)),
}


def stopped(study, process, rank=0):
    """Return the output of a process. Fails unless it ended as requested by a signal."""
    status, text = exit_status(process), output_of(study, rank)
    assert status == 75 and text.count("stopped;") == 1 and "Traceback" not in text, (status, text)
    return text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_run_asked_to_stop_at_each_place_saves_and_ends_like_an_uninterrupted_one(study, whole, number):
    folder = study / f"outputs/asked {number}"
    words = (*TRAIN, "--output-dir", folder)
    for place, interruption in BEGINNING.items():
        process = start(study, *words, interruptions=[replace(interruption, actions=(number,))])
        assert "run it again" in stopped(study, process), place
        assert not folder.exists(), (place, [p.name for p in folder.rglob("*")])
    for place, (interruption, come) in TRAINING.items():
        interruptions = [replace(interruption, actions=(number,))]
        text = stopped(study, resume(study, folder, *interruptions) if folder.exists()
                       else start(study, *words, interruptions=interruptions))
        assert f"--resume {folder}" in text and sound(folder) == come, (place, text)
    assert exit_status(resume(study, folder)) == 0
    ends_as(whole(), folder)


CTRL_C, TERM = signal.SIGINT, signal.SIGTERM
REASON, BUILD = "medical_fenlei.cli:_explained", "medical_fenlei.training.run:build_model"
AGAIN = [                                                         # and how far the run has come when it leaves
    ([Interruption(STEP, (CTRL_C, CTRL_C))], (0, 0)),
    ([Interruption(STEP, (CTRL_C, TERM), nth=2)], (0, 2)),
    ([Interruption(STEP, (CTRL_C, CTRL_C), nth=2)], (1, 0)),
    ([Interruption(STEP, (TERM, CTRL_C), nth=2)], (1, 2)),
    ([Interruption(STEP, (TERM, signal.SIGUSR1, TERM))], (1, 3)),
    ([Interruption(STEP, (TERM,)), Interruption(BACK, (TERM, CTRL_C), nth=2)], (2, 1)),   # in the save that it asked for
    ([Interruption(LINK, (CTRL_C, CTRL_C))], (2, 1)),             # in a save: the checkpoint before it stays
    ([Interruption(FLUSH, (CTRL_C, CTRL_C), nth=2)], (2, 1)),
    ([Interruption(BUILD, (TERM,)), Interruption(REASON, (TERM, signal.SIGUSR1), after=True)], (2, 1)),   # before its message
    ([Interruption(STEP, (TERM,)), Interruption(REASON, (TERM, signal.SIGUSR1), after=True)], (2, 2)),
]


def test_only_a_second_ctrl_c_leaves_before_the_step_is_saved(study, whole):
    folder, flags = study / "outputs/again", KEPT["each step"]
    for interruptions, come in AGAIN:
        begun = (folder / "config.json").exists()
        text = stopped(study, resume(study, folder, *interruptions) if begun
                       else start(study, *TRAIN, *flags, "--output-dir", folder, interruptions=interruptions))
        assert sound(folder) == come and not list(folder.rglob("*.part")), (interruptions, text)
    assert exit_status(resume(study, folder)) == 0
    ends_as(whole(*flags), folder)


def test_a_signal_to_one_of_two_ranks_stops_both_after_the_same_step_when_it_is_saved(study, whole):
    folder = study / "outputs/asked of two"
    words = (*TRAIN, "--output-dir", folder, "--resume", "auto")
    for place, number, asked, come in ((STEP, signal.SIGTERM, 1, (0, 1)), (ADAM, signal.SIGINT, 0, (0, 2)),
                                       (MEASURE, signal.SIGUSR1, 1, (0, 3)), (WRITE, signal.SIGTERM, 0, (1, 0))):
        slow = Interruption(BACK, ("slow",), after=True)         # a rank that left at once would end the other
        interruptions = {0: [slow], 1: []}
        interruptions[asked].append(Interruption(place, (number,)))
        processes = start_two_ranks(study, *words, interruptions=interruptions)
        second = stopped(study, processes[1], 1).splitlines()[-1]
        assert sound(folder) == come, (place, second)
        first = stopped(study, processes[0]).splitlines()[-1]
        assert first == second.replace(" (rank 1)", "")
    assert [exit_status(process) for process in start_two_ranks(study, *words)] == [0, 0]
    ends_as(whole(ranks=2), folder)


@pytest.mark.parametrize("actions", [(-signal.SIGTERM,), (signal.SIGTERM,), (-signal.SIGINT, signal.SIGINT)],
                         ids=["SIGTERM to the study", "SIGTERM to the run", "Ctrl-C"])
def test_a_study_that_is_stopped_continues_the_run_in_progress(study, whole, request, actions):
    words = ["run_seeds_ear2d", *TRAIN[1:], "--output-dir", f"outputs/study {request.node.callspec.id}", "--seeds", 8]
    place = words.index("--seed")
    del words[place:place + 2]
    text = stopped(study, start(study, *words, interruptions=[Interruption(STEP, actions, nth=5)]))
    run, = (study / words[words.index("--output-dir") + 1]).glob("*/seed_8")
    assert sound(run) == (1, 2) and "failed" not in text, text
    one_step_too_many = Interruption(STEP, nth=EPOCHS * STEPS - 5 + 1)
    assert exit_status(start(study, *words, interruptions=[one_step_too_many])) == 0, output_of(study)
    same_bits(whole(), run)


def test_an_evaluation_that_is_stopped_can_be_run_again(study, whole):
    words = "eval_ear2d", "--pictures", 0, "--checkpoint", whole() / "checkpoints/best.pt", "--split", "val", "--resamples", 20
    stopped(study, start(study, *words, interruptions=[Interruption(MEASURE, (signal.SIGTERM,))]))
    assert not (whole() / "reports/predictions_val.csv").exists()
    assert exit_status(start(study, *words)) == 0, output_of(study)
    for path in (whole() / "reports").glob("*val*"):
        path.unlink()


FRESH = """
import runpy, sys
from medical_fenlei import cli

begin = cli.stop_on_signals

def begun():
    begin()
    print("begun", flush=True)

cli.stop_on_signals = begun
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_interpreter_that_is_still_loading_stops_when_asked(study, whole):
    folder = study / "outputs/loading"
    words = (*TRAIN[1:], "--output-dir", folder, "--resume", "auto")
    command = [sys.executable, "-c", FRESH, ROOT / "scripts/train_ear2d.py", *words]
    moments = random.Random(0)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
        process = subprocess.Popen([*map(str, command)], cwd=study, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
        assert process.stdout.readline() == "begun\n"
        time.sleep(moments.uniform(0, 1.5))
        process.send_signal(number)
        text = process.communicate(timeout=60)[1]
        assert process.returncode == 75 and len(text.splitlines()) == 1 and "stopped;" in text, text
    assert exit_status(start(study, "train_ear2d", *words)) == 0
    ends_as(whole(), folder)


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(study, whole):
    folder = study / "outputs/no room"
    words = (*TRAIN, "--output-dir", folder)
    for place, nth, come in ((WRITE, 1, (0, 0)), (BACK, 1, (0, 0)), (WRITE, 3, (1, 0)), (BACK, 1, (1, 0)), (BACK, 2, (2, 0))):
        assert exit_status(start(study, *words, interruptions=[Interruption(place, ("full",), nth)])) == 2
        *_, line = output_of(study).splitlines()
        assert "File too large" in line and f"make room, then --resume {folder}" in line and "Traceback" not in output_of(study)
        assert not list(folder.rglob("*.part")) and sound(folder) == come
        words = ("train_ear2d", "--resume", folder)
    assert exit_status(start(study, *words)) == 0, output_of(study)
    ends_as(whole(), folder)


def test_resume_auto_ends_like_an_uninterrupted_run(study, whole):
    folder = study / "outputs/by itself"
    words = (*TRAIN, "--output-dir", folder, "--resume", "auto")
    stopped(study, start(study, *words, interruptions=[Interruption(STEP, (signal.SIGUSR1,), nth=5)]))
    elsewhere = ("--num-workers", 7, "--read-workers", 3, "--data-on", "disk")
    stopped(study, start(study, *words, *elsewhere, interruptions=[Interruption(MEASURE, (signal.SIGTERM,), nth=4)]))
    assert sound(folder) == (2, 3)
    assert exit_status(start(study, *words)) == 0
    ends_as(whole(), folder)
    kept = {path: path.read_bytes() for path in folder.rglob("*.pt")}
    killed_if_it_works = [Interruption(STEP), Interruption(MEASURE), Interruption(WRITE)]
    assert exit_status(start(study, *words, interruptions=killed_if_it_works)) == 0
    assert f"all {EPOCHS} epochs are already done" in output_of(study), output_of(study)
    assert {path: path.read_bytes() for path in folder.rglob("*.pt")} == kept
    ends_as(whole(), folder)


SAVED = Interruption(STEP, (signal.SIGTERM,), nth=2)


def test_resume_auto_refuses_a_run_with_other_settings(study):
    folder = study / "outputs/another"
    words = (*TRAIN, "--output-dir", folder, "--resume", "auto")
    stopped(study, start(study, *words, interruptions=[SAVED]))
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for other in (("--lr", 1e-4), ("--seed", 4), ("--epochs", 9), ("--auto-batch",)):
        assert exit_status(start(study, *words, *other)) == 2
        line, = output_of(study).splitlines()
        assert "--output-dir" in line and "other settings" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept


def test_resume_auto_continues_the_newest_run_of_these_settings(study, whole, tmp_path):
    for name in ("artifacts", "cache"):
        shutil.copytree(study / name, tmp_path / name)
    stopped(tmp_path, start(tmp_path, *TRAIN, "--resume", "auto", interruptions=[SAVED]))        # there is none: one begins
    first, = (tmp_path / "outputs").iterdir()
    stopped(tmp_path, start(tmp_path, *TRAIN, interruptions=[SAVED]))
    second, = {*(tmp_path / "outputs").iterdir()} - {first}
    stopped(tmp_path, start(tmp_path, *TRAIN, "--seed", 4, interruptions=[SAVED]))
    (tmp_path / "outputs/broken").mkdir()
    (tmp_path / "outputs/broken/config.json").write_text("{}")
    assert exit_status(start(tmp_path, *TRAIN, "--resume", "auto")) == 0, output_of(tmp_path)
    ends_as(whole(), second)
    assert sound(first) == (0, 2) and len(list((tmp_path / "outputs").iterdir())) == 4


def test_a_resumed_run_keeps_the_batch_size_that_was_found(study, whole):
    folder = study / "outputs/found"
    words = (*TRAIN, "--auto-batch", "--output-dir", folder, "--resume", "auto")
    for interruption in (Interruption(STEP, nth=3), Interruption(STEP, (signal.SIGTERM,), nth=3)):
        assert exit_status(start(study, *words, interruptions=[interruption])) in (-signal.SIGKILL, 75)
    assert exit_status(start(study, *words)) == 0, output_of(study)
    ends_as(whole("--auto-batch"), folder)

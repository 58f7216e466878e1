"""Two processes learn what one learns, and stop together when either fails."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.commands import ROOT, run
from helpers.process_group import run_process_group, run_processes, stderr_file
from helpers.rank_tasks import (
    exchange,
    exit_on_second,
    refuse_on_first,
    statistics_after_one_step,
    steps_with_nan_on_second,
    three_steps,
)
from helpers.small_net import EARS, Net, random_batch
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study

from medical_fenlei.data.batching import split_into_batches, training_order
from medical_fenlei.errors import CheckFailed, UserError
from medical_fenlei.training.distributed import Ranks

TRAIN = ("--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100, "--batch-size", 5,
         "--epochs", 3, "--patience", 0, "--dropout", 0, "--precision", "fp32", "--ema", 0.8, "--backbone", "test_convnext")
"""A network without BatchNorm, which would see other batches in each process, and without dropout."""


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    train = {**codes_in_turn("abcdefg"), "exam_h": (0, 5), "exam_i": (3, None)}
    write_study(tmp_path, {"train": train, "tune": codes_in_turn("klm", seed=1)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def torchrun(processes, script, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, "--master-port", 0,
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", ROOT / "scripts" / script, *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("route", ["train_ear2d", "train_dual"])
def test_two_ranks_have_the_loss_curve_of_one_and_only_the_first_writes(study, route):
    words = (*TRAIN, *(("--model", "dual_slice_attention", "--batch-size", 3) if route == "train_dual" else ()))
    assert run(route, *words, "--output-dir", "outputs/one") == 0
    if route == "train_ear2d":
        said = torchrun(2, f"{route}.py", *words, "--output-dir", "outputs/two")
        assert said.returncode == 0 and said.stdout.count("epoch 2/3") == 1 and "2 processes" in said.stdout, said.stderr
    else:
        assert run_processes(run, route, *words, "--output-dir", "outputs/two") == [0, 0]
    one, two = lines_of(study / "outputs/one"), lines_of(study / "outputs/two")
    assert [line["epoch"] for line in two] == [1, 2, 3]
    for name in ("train_loss", "tune_loss", "tune_accuracy", "lr"):
        np.testing.assert_allclose([line[name] for line in two], [line[name] for line in one], rtol=0, atol=1e-5)
    assert abs(one[0]["train_loss"] - one[2]["train_loss"]) > 1e-3                       # something was learned
    weights = [torch.load(study / f"outputs/{which}/checkpoints/best.pt", weights_only=True)["weights"]
               for which in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-3, msg=name)      # Adam's first steps are signs
    assert len(list((study / "outputs/two/tensorboard").iterdir())) == 1
    assert (study / "outputs/two/reports/curves.png").is_file()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 8])
def test_each_sample_is_seen_once_an_epoch_over_all_ranks(world, size):
    targets = np.where(np.arange(43) % 6 == 0, -1, np.arange(43) % 2)[:, None]
    cuts = split_into_batches(training_order(targets, balanced=False, rng=np.random.default_rng(0)), size)
    shares = [[Ranks(rank, world).share(samples) for samples in cuts] for rank in range(world)]
    seen = np.concatenate([samples for own in shares for samples in own])
    assert sorted(seen) == np.flatnonzero(targets[:, 0] >= 0).tolist()
    for number, samples in enumerate(cuts):
        each = [own[number] for own in shares]
        assert np.concatenate(each).tolist() == samples.tolist() and max(map(len, each)) - min(map(len, each)) <= 1


def test_a_batch_with_fewer_samples_than_processes_is_refused_by_all(study):
    assert run_processes(run, "train_ear2d", *TRAIN, "--batch-size", 1, "--output-dir", "outputs/run") == [2, 2]
    said = "".join((study / stderr_file(rank)).read_text() for rank in (0, 1))
    assert "--batch-size: a batch of 1 among 2 processes" in said and "Traceback" not in said


def test_a_run_that_cannot_begin_is_reported_once_and_leaves_no_folder(study):
    assert run_processes(run, "train_ear2d", *TRAIN, "--pct", 1, "--output-dir", "outputs/run") == [2, 2]
    said = "".join((study / stderr_file(rank)).read_text() for rank in (0, 1))
    assert said.count("1pct") == 1 and "Traceback" not in said
    assert not (study / "outputs/run").exists()


def test_messages_of_each_rank_reach_all_ranks():
    one, two = run_process_group(exchange)
    assert one == two == {"sum": [[[3.0] * 3] * 2, 10.0], "any": [True, False], "gather": ["of 0", "of 1"],
                          "first": "by 0", "weights": [[7.0] * 2] * 2}


def test_a_single_process_exchanges_messages_with_itself():
    assert exchange(Ranks()) == {"sum": [[[1.0] * 3] * 2, 0.0], "any": [False, False], "gather": ["of 0"], "first": "by 0",
                             "weights": [[7.0] * 2] * 2}


def test_an_error_of_the_first_process_ends_all_and_only_the_first_reports_it():
    one, two = run_process_group(refuse_on_first)
    assert isinstance(one, UserError) and str(one) == "refused by 0"
    assert isinstance(two, SystemExit) and two.code == 2


def test_a_lost_process_is_reported_in_one_line_by_the_other():
    one, _ = run_process_group(exit_on_second)
    assert isinstance(one, CheckFailed) and "another process of the run is gone" in str(one) and "\n" not in str(one)


@pytest.mark.parametrize("fault", [None, "memory", "nan"])
def test_a_step_of_two_processes_equals_that_of_one_on_all_their_ears(fault):
    one = three_steps(Ranks(), False, fault)
    first, second = run_process_group(three_steps, False, fault)
    np.testing.assert_allclose(first[0], one[0], rtol=1e-5)
    assert np.array_equal(first[0], second[0], equal_nan=True) and np.isnan(first[0][1]) == (fault == "nan")
    assert first[3] == second[3] == (2 if fault == "memory" else 1)
    for place in (1, 2):
        for name, value in one[place].items():
            torch.testing.assert_close(first[place][name], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(first[place][name], second[place][name])


def test_statistics_of_batchnorm_are_the_mean_over_the_ranks_and_equal_on_all():
    first, second = run_process_group(three_steps, True, None)
    for name, value in first[1].items():
        assert torch.equal(value, second[1][name]), name
    torch.manual_seed(0)
    net, expected = Net(True), 0
    halves = np.array_split(np.arange(EARS), 2)
    convolved = [net.body[0](random_batch(0)[0][half]).detach() for half in halves]
    expected = np.mean([0.1 * image.mean((0, 2, 3)).numpy() for image in convolved], axis=0)
    one = run_process_group(statistics_after_one_step, world=2)
    np.testing.assert_allclose(one[0], expected, rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_never_finite_in_one_process_ends_both_alike():
    errors = run_process_group(steps_with_nan_on_second)
    assert [(type(error), "--lr" in str(error)) for error in errors] == [(CheckFailed, True)] * 2

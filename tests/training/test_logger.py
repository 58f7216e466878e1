"""The log, the metrics and TensorBoard agree on what a run reports, and none of them identifies a patient."""
import io
import json
import logging
import math
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPEC, SPLITS, codes_in_turn, write_study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import AugmentConfig, DataConfig, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.log import LOG
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_tasks
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.logger import BAR, EARS_SHOWN, SLICES_SHOWN, TrainingLogger, montage
from medical_fenlei.training.schedule import Schedule

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
LINE = {"epoch": 1, "lr": 2.5e-4, "train_loss": 0.7031, "ears_per_s": 34.5, "waited": 0.034, "memory_gb": 1.26,
        "tune_loss": 0.6123, "tune_auprc": 0.8345, "best_epoch": 1, "seconds": 12.3}


def logger_of(folder, *, active=True, **view):
    config = RunConfig(augment=AugmentConfig(**view), data=DataConfig(label_task="normal_vs_abnormal,cholesteatoma_vs_csoma"))
    return TrainingLogger(Run(folder), config, CPU, Schedule(epochs=30, passes=3, steps=20), active)


def shown_on(board):
    """Return everything that TensorBoard itself reads in a folder."""
    events = EventAccumulator(str(board), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def picture(event):
    image = matplotlib.image.imread(io.BytesIO(event.encoded_image_string), format="png")
    assert (image[..., :1] == image[..., :3]).all()              # grey
    return (image[..., 0] * 255).round().astype(np.uint8)


@pytest.fixture
def said(monkeypatch):
    """The lines of the log."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda line: lines.append(line.getMessage())
    monkeypatch.setattr(LOG, "handlers", [handler])
    monkeypatch.setattr(LOG, "level", logging.INFO)
    return lines


EXAMS = {"train": codes_in_turn("abc"), "tune": {"exam_x": (5, 1), "exam_y": (2, 5)}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of five epochs."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, EXAMS, replace(SPEC, num_slices=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train_ear2d", "--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100,
                   "--backbone", "test_resnet", "--batch-size", 4, "--epochs", 5, "--patience", 0, "--slice-context", 1,
                   "--windows", "bone,soft", "--device", "cpu", "--output-dir", "outputs/run") == 0
    return folder / "outputs/run"


def test_tensorboard_shows_every_number_of_every_epoch_and_a_picture_after_one_two_and_four(trained):
    events = shown_on(trained / "tensorboard")
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    numbers = set(lines[0]) - {"chosen_by"}
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5] and set(events.Tags()["scalars"]) == numbers
    for name in numbers:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["epoch"], line[name]) for line in lines]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)             # it keeps float32
    assert [event.step for event in events.Images("seen")] == [1, 2, 4]
    assert picture(events.Images("seen")[0]).shape == (3 * (32 + BAR + 2), 4 * (32 + 2))


def test_tensorboard_and_the_log_hold_nothing_of_a_patient_and_only_the_log_names_tables(trained):
    events = shown_on(trained / "tensorboard").Tags()
    assert all(not events[kind] for kind in events if kind not in ("scalars", "images")) and events["images"] == ["seen"]
    files = [path for path in (trained / "tensorboard").rglob("*") if path.is_file()]
    assert len(files) == 1
    content, log = files[0].read_bytes() + files[0].name.encode(), (trained / "train.log").read_bytes()
    for exam in (*EXAMS["train"], *EXAMS["tune"], "patient_of", "2020-01-01", "bone/"):
        assert exam.encode() not in content + log
    for table in (SPLITS, MANIFEST):
        assert table.encode() not in content and table.encode() in log
    chunks = set(re.findall(rb"IHDR|IDAT|IEND|tEXt|zTXt|iTXt|eXIf|tIME", content))
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}                 # pictures carry pixels alone


def test_an_epoch_is_a_line_of_the_log_with_speed_share_of_waiting_memory_and_rate(trained):
    said = (trained / "train.log").read_text()
    for line in map(json.loads, (trained / "metrics.jsonl").read_text().splitlines()):
        best = " (best)" if line["best_epoch"] == line["epoch"] else ""
        expected = (f"epoch {line['epoch']}/5: loss {line['train_loss']:.3f}, tune loss {line['tune_loss']:.3f}, auprc "
                    f"{line['tune_auprc']:.3f}{best}; lr {line['lr']:.2g}, {line['ears_per_s']:.1f} ears/s, "
                    f"{100 * line['waited']:.0f}% of the time waiting for data, {line['memory_gb']:.1f} GB")
        assert expected in said
        assert 0 <= line["waited"] <= 1 and line["ears_per_s"] > 0 and line["memory_gb"] > 0.1
    assert said.count(" ears/s") == 5


def test_without_a_tune_set_the_line_reports_training_alone(tmp_path, said):
    line = {name: value for name, value in LINE.items() if not name.startswith("tune")} | {"best_epoch": 3}
    with logger_of(tmp_path) as logger:
        logger.log_epoch(line)
    assert said == ["epoch 1/30: loss 0.703; lr 0.00025, 34.5 ears/s, 3% of the time waiting for data, 1.3 GB"]


def test_the_log_begins_with_the_ears_of_each_class_by_task(tmp_path, said):
    exams = {"exam_a": (5, 1), "exam_b": (2, 2), "exam_c": (0, 3)}
    store = write_study(tmp_path, {"train": exams}, replace(SPEC, num_slices=1))
    ears = EarDataset(store, tables.MANIFEST.read(tmp_path / MANIFEST))
    logger = logger_of(tmp_path / "run")
    logger.log_start(nn.Linear(1000, 2000), find_tasks(logger.config.data.label_task), ears, None, 3)
    assert said == [
        "train, normal_vs_abnormal: 5 ears; per class: 1 4", "train, cholesteatoma_vs_csoma: 3 ears; per class: 2 1",
        f"resnet18, attention, 2.0 million parameters, 16 samples per step, on {CPU}, 3 processes",
        "at most 30 epochs of 20 steps, each in 3 passes through the training set"]


def seen_by(logger, epoch, image, attention=None):
    logger.show_input(epoch, torch.from_numpy(image), attention)


def test_the_picture_shows_the_first_ears_and_each_slice_without_its_neighbors(tmp_path):
    rng = np.random.default_rng(0)
    first, later = rng.uniform(-1, 1, (2, 3, 5, 6, 8, 8)).astype(np.float32)      # of 6 channels those of the slice are 2 and 3
    with logger_of(tmp_path, slice_context=1, windows=("soft", "bone")) as logger:
        for epoch in range(1, 18):
            seen_by(logger, epoch, first + 0.001 * epoch)
            seen_by(logger, epoch, later)
    events = shown_on(tmp_path / "tensorboard").Images("seen")
    assert [event.step for event in events] == [1, 2, 4, 8, 16]
    for event in events:
        expected = montage(torch.from_numpy(first[:, :, 2] + 0.001 * event.step), None)[0]
        np.testing.assert_array_equal(picture(event), expected)


def test_a_resumed_run_shows_each_epoch_once_with_its_latest_figures(tmp_path):
    for first, value in ((1, 0.5), (3, 0.25)):                   # stopped after the fourth, saved after the second
        with logger_of(tmp_path) as logger:
            for epoch in range(first, first + 4):
                seen_by(logger, epoch, np.full((1, 1, 1, 8, 8), value, np.float32))
                logger.log_epoch(LINE | {"epoch": epoch, "train_loss": value})
    events = shown_on(tmp_path / "tensorboard")
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [
        (1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25), (5, 0.25), (6, 0.25)]
    assert [(event.step, picture(event)[0, 0]) for event in events.Images("seen")] == [(1, 191), (2, 191), (4, 159)]


def test_a_process_that_is_not_the_first_writes_nothing_at_all(tmp_path):
    store = write_study(tmp_path, {"train": {"exam_a": (5, 1)}}, replace(SPEC, num_slices=1))
    ears = EarDataset(store, tables.MANIFEST.read(tmp_path / MANIFEST))
    with logger_of(tmp_path / "run", active=False) as logger:
        logger.log_start(nn.Linear(2, 2), find_tasks("six_class"), ears, ears, 2)
        seen_by(logger, 1, np.zeros((2, 3, 1, 8, 8), np.float32))
        logger.log_epoch(LINE)
        logger.write_report(1, {"accuracy": 0.5})
    assert not (tmp_path / "run").exists()


def test_a_run_that_logged_nothing_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), logger_of(tmp_path / "run"):
        raise RuntimeError
    assert not (tmp_path / "run").exists()


def test_the_report_of_an_epoch_is_a_file_of_its_own(tmp_path):
    logger_of(tmp_path).write_report(7, {"accuracy": 0.5, "macro": {"f1": math.nan}})
    found = json.loads((tmp_path / "reports/epoch_7.json").read_text())
    assert found["epoch"] == 7 and found["set"] == "tune" and found["accuracy"] == 0.5


def one_by_one(image, attention):
    """The montage, pixel after pixel: where each ear, slice and strip has to lie."""
    ears, slices, height, width = image.shape
    shown = sorted({round(n * (slices - 1) / (SLICES_SHOWN - 1)) for n in range(SLICES_SHOWN)})
    row_height, column_width = height + 2 + (BAR if attention is not None else 0), width + 2
    picture = np.zeros((min(ears, EARS_SHOWN) * row_height, len(shown) * column_width), np.uint8)
    for ear in range(min(ears, EARS_SHOWN)):
        for place, k in enumerate(shown):
            top, left = ear * row_height, place * column_width
            for r in range(height):
                for c in range(width):
                    picture[top + r, left + c] = min(255, max(0, np.round(np.float32(127.5) * (image[ear, k, r, c] + 1))))
            if attention is not None:
                reach = attention[ear, k] / max(attention[ear]) * width
                for c in range(width):
                    picture[top + height:top + height + BAR, left + c] = 255 if c < reach else 60
    return picture[None]


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize(("ears", "slices"), [(1, 1), (1, 3), (2, 7), (3, 8), (4, 9), (9, 20)])
def test_every_ear_and_slice_has_its_place_with_its_attention_below(ears, slices, attends):
    rng = np.random.default_rng(ears)
    image = rng.uniform(-1, 1, (ears, slices, 5, 11)).astype(np.float32)
    attention = rng.dirichlet(np.ones(slices), ears).astype(np.float32) if attends else None
    found = montage(torch.from_numpy(image), torch.from_numpy(attention) if attends else None)
    expected = one_by_one(image, attention)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def strips(attention, *, width=40):
    """Return the length of the white strip below each slice, (ears, slices shown)."""
    image = torch.full((*attention.shape, 3, width), -1.0)
    found = montage(image, attention)[0].reshape(len(attention), 3 + BAR + 2, -1, width + 2)[:, 3:3 + BAR]
    assert (found == found[:, :1]).all()                         # each of its rows is the same
    return (found[:, 0] == 255).sum(-1)


def test_the_length_of_a_strip_is_the_attention_relative_to_the_highest():
    assert strips(torch.tensor([[0.4, 0.1, 0.2, 0.0, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])).tolist() == [
        [40, 10, 20, 0, 30], [40] * 5]


def test_the_highest_attention_may_be_that_of_a_slice_that_is_not_shown():
    attention = torch.full((1, 16), 0.02)
    attention[0, 1] = 0.5                                        # of 16 slices 0, 2, 4, 6, 9, 11, 13 and 15 are shown
    assert strips(attention).tolist() == [[2] * 8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_or_with_a_gradient_can_be_shown(dtype):
    attention = torch.tensor([[0.5, 0.25, 0.125, 0.125]], requires_grad=True)
    image = torch.rand(1, 4, 3, 40)
    assert np.array_equal(montage(image.to(dtype), attention.to(dtype)), montage(image.to(dtype).float(), attention))
    assert strips(attention.to(dtype)).tolist() == [[40, 20, 10, 10]]

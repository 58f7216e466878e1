"""A repeated ear is augmented anew within an epoch, and the epoch with the best measure is kept."""
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPLITS, write_study
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, EarSpec, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.data.augment import draw_params
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.models.network import Network, NetworkOutput
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_tasks
from medical_fenlei.training import epoch_choice, loop
from medical_fenlei.training.checkpoint import read_checkpoint
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.epoch_choice import EpochChoice
from medical_fenlei.training.loop import Progress, Trainer

SPEC = EarSpec(num_slices=2, image_size=32, extent="half")
TRAIN = ("--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100, "--device", "cpu",
         "--backbone", "test_resnet", "--epochs", 2, "--patience", 0)
ABNORMAL = (1, 2, 3, 4, 6, 1, 2)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Nine ears to train on, two of them normal and of one exam."""
    train = {"exam_n": (5, 5)} | {f"exam_{n}": (code, None) for n, code in enumerate(ABNORMAL)}
    store = write_study(tmp_path, {"train": train, "tune": {"exam_t": (5, 2)}}, SPEC)
    monkeypatch.chdir(tmp_path)
    return store


@pytest.mark.parametrize("command", [("train_ear2d", "--batch-size", 2),
                                     ("train_dual", "--batch-size", 2, "--model", "dual_slice_attention",
                                      "--label-task", "normal_vs_abnormal")], ids=lambda command: command[0])
def test_an_ear_that_is_repeated_in_an_epoch_is_augmented_anew(study, monkeypatch, command):
    drawn = []

    def noting(config, **names):
        found = draw_params(config, **names)
        each = zip(names["row"].tolist(), names["ear"].tolist(), names["occurrence"].tolist(), found.level.tolist(),
                   found.noise_seed, strict=True)
        drawn.extend((names["epoch"], *ear) for ear in each)
        return found

    monkeypatch.setattr(loop, "draw_params", noting)
    assert run(*command, *TRAIN, "--balance", "sampler", "--output-dir", "outputs/run") == 0
    for epoch in (1, 2):
        own = [names[1:] for names in drawn if names[0] == epoch]
        times = Counter((row, ear) for row, ear, *_ in own)
        assert max(times.values()) > 1
        for name, count in times.items():
            assert [turn for row, ear, turn, *_ in own if (row, ear) == name] == list(range(count))
        assert len({level for *_, level, _ in own}) == len({seed for *_, seed in own}) == len(own)
    assert len({seed for *_, seed in drawn}) == len(drawn)


class Net(Network):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(1, 1), nn.Linear(1, 1)

    @property
    def trunk(self):
        return self.body

    def forward(self, volume):
        embedding = self.body(volume.mean((1, 2, 3, 4))[:, None])
        return NetworkOutput(self.head(embedding), embedding, None)


NOT = math.nan


def kept_of(study, monkeypatch, measures, *, metric="auroc", patience=0, tune=4, enough=1, chosen_from=1):
    """A run in which the tune set gives (measure, loss) epoch after epoch: which were kept, its lines, its progress.

    tune: ears in the tune set; chosen_from: the first epoch that may be the best; enough: patients beside the most frequent
    class from which the measure chooses.
    """
    monkeypatch.setattr(epoch_choice, "TO_CHOOSE_EPOCH", enough)
    config = RunConfig(data=DataConfig(pct=100), ears=SPEC, model=ModelConfig(backbone="test_resnet"),
                       training=TrainConfig(epochs=len(measures), early_stop_metric=metric, patience=patience))
    ears = tables.MANIFEST.read(Path(MANIFEST))
    trainer = Trainer(config, Run.new(Path("outputs/run"), ""), Net(), ComputeSettings(torch.device("cpu"), torch.float32),
                      EarDataset(study, ears), EarDataset(study, ears[:tune]) if tune else None)
    trainer.schedule = replace(trainer.schedule, chosen_from=chosen_from)
    said, saved = iter(measures), []

    def measure(epoch, logger):
        value, loss = next(said)
        return {metric.removeprefix("val_"): value, "loss": loss}

    monkeypatch.setattr(trainer, "train_epoch", lambda epoch, logger: {
        "lr": 0.1, "train_loss": 1.0, "ears_per_s": 1.0, "waited": 0.0, "memory_gb": 1.0})
    if tune:
        monkeypatch.setattr(trainer, "_evaluate_tune", measure)
    save = trainer._save

    def saving(improved):
        if improved:
            saved.append(trainer.progress.epoch)
        save(improved)

    monkeypatch.setattr(trainer, "_save", saving)
    progress = trainer.fit()
    best = torch.load("outputs/run/checkpoints/best.pt", weights_only=True)
    assert best["epoch"] == saved[-1] == progress.best_epoch
    np.testing.assert_equal(best["value"], progress.best_value)
    return saved, list(trainer.run.read_metrics()), progress


@pytest.mark.parametrize(("measures", "kept"), [
    ([(0.5, 1.0)], [1]),
    ([(0.5, 1.0), (0.6, 1.0), (0.6, 1.0), (0.55, 0.1), (0.7, 9.0)], [1, 2, 5]),          # more is better, whatever the loss
    ([(0.6, 1.0), (0.6, 0.9), (0.6, 0.95), (0.6, 0.8)], [1, 2, 4]),                      # the loss decides among equals
    ([(0.0, 5.0), (0.0, 5.0)], [1]),                                                     # the first is kept, however bad
    ([(NOT, 1.0), (0.0, 9.0), (NOT, 0.1)], [1, 2]),                                      # defined, if zero, before undefined
    ([(0.1, 1.0), (NOT, 0.1), (0.05, 0.1), (0.2, 3.0)], [1, 4]),
    ([(NOT, 1.0), (NOT, 1.1), (NOT, 0.9), (NOT, 0.9)], [1, 3]),                          # where all are undefined, by the loss
    ([(NOT, math.inf), (NOT, 1.0)], [1, 2]),
])
def test_the_epoch_of_the_best_measure_is_kept(study, monkeypatch, measures, kept):
    saved, lines, progress = kept_of(study, monkeypatch, measures)
    assert saved == kept
    np.testing.assert_equal(progress.best_value, measures[kept[-1] - 1][0])
    assert [line["best_epoch"] for line in lines] == [max(e for e in kept if e <= n) for n in range(1, len(measures) + 1)]


def test_an_epoch_before_the_network_has_learnt_is_not_the_best_however_it_measures(study, monkeypatch):
    saved, lines, progress = kept_of(study, monkeypatch, [(v, 1.0) for v in (1.0, 0.9, 0.5, 0.4, 0.6, 0.55)], chosen_from=3)
    assert saved == [1, 2, 3, 5] and progress.best_value == 0.6
    assert [line["best_epoch"] for line in lines] == [1, 2, 3, 3, 5, 5]


@pytest.mark.parametrize("metric", ["loss", "val_loss"])
def test_a_lower_loss_is_better(study, monkeypatch, metric):
    values = [3.0, 4.0, 2.0, 2.0, 2.5, 1.0]
    saved, _, progress = kept_of(study, monkeypatch, [(value, value) for value in values], metric=metric)
    assert saved == [1, 3, 6] and progress.best_value == 1.0


def test_without_a_tune_set_the_latest_is_kept(study, monkeypatch):
    saved, lines, progress = kept_of(study, monkeypatch, [None] * 4, patience=1, tune=0)
    assert saved == [1, 2, 3, 4] and len(lines) == 4 and math.isnan(progress.best_value)
    assert {line["chosen_by"] for line in lines} == {"last_epoch"} and best_of("outputs/run").metric == ""


def test_a_tune_set_too_small_for_a_measure_chooses_by_the_loss_averaged_over_epochs(study, monkeypatch):
    """Two patients: an AUROC of 1 in epoch 1 decides nothing, nor does a single low loss (epoch 5)."""
    losses = [0.9, 0.7, 0.6, 0.8, 0.3, 0.9, 0.75]
    saved, lines, progress = kept_of(study, monkeypatch, [(1.0, loss) for loss in losses], enough=5, patience=2)
    averaged = [np.mean(losses[max(0, n - 2):n + 1]) for n in range(len(losses))]
    assert saved == [1, 2, 3, 4, 5] and int(np.argmin(averaged)) + 1 == 5 and len(lines) == 7
    assert progress.best_value == pytest.approx(averaged[4])
    assert {line["chosen_by"] for line in lines} == {"mean_loss"} and best_of("outputs/run").metric == "mean_loss"


def test_a_tune_set_of_a_single_class_chooses_no_epoch(study, monkeypatch):
    ears = tables.MANIFEST.read(Path(MANIFEST))
    assert (ears.label_code[:1] > 0).all()
    saved, lines, _ = kept_of(study, monkeypatch, [(NOT, 0.1), (NOT, 0.2), (NOT, 0.3)], tune=1, patience=1)
    assert saved == [1, 2, 3] and {line["chosen_by"] for line in lines} == {"last_epoch"}


def test_averaged_losses_survive_an_interruption(study, monkeypatch):
    kept_of(study, monkeypatch, [(1.0, loss) for loss in (0.9, 0.7, 0.6, 0.8)], enough=5)
    state = torch.load("outputs/run/checkpoints/last.pt", weights_only=True)["state"]
    assert Progress(**state["progress"]).losses == [0.7, 0.6, 0.8]


def test_a_network_of_several_tasks_chooses_by_its_measure_if_one_task_has_enough_ears():
    tasks = find_tasks("normal_vs_abnormal,normal_vs_ome")
    codes = np.array([5, 1] * 6 + [3])
    ears = pd.DataFrame({"patient_key": np.arange(13).astype(str), "label_code": codes})
    assert EpochChoice.on(ears, tasks, "auprc").by == "auprc" and EpochChoice.on(ears, tasks[1:], "auprc").by == "mean_loss"
    assert EpochChoice.on(ears[ears.label_code == 1], tasks[:1], "auprc").by == "last_epoch"


def best_of(folder):
    """The best checkpoint of a run."""
    return read_checkpoint(Path(folder) / "checkpoints/best.pt", kind="ear2d")


@pytest.mark.parametrize(("patience", "values", "epochs"), [
    (2, [0.5, 0.4, 0.4, 0.9, 0.9], 3),                                                   # never better than the first
    (2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.6, 0.9], 7),                                    # counted from the best
    (3, [0.5, 0.4, 0.3, 0.6, 0.1, 0.1, 0.1, 0.9], 7),
    (1, [NOT, 0.2, 0.1, 0.9], 3),
    (0, [0.5] + [0.1] * 7, 8),                                                           # never stops
])
def test_patience_counts_epochs_since_the_best_one(study, monkeypatch, patience, values, epochs):
    _, lines, progress = kept_of(study, monkeypatch, [(value, 1.0) for value in values], patience=patience)
    assert len(lines) == progress.epoch == epochs


def test_predictions_of_the_tune_set_that_are_not_finite_end_the_run_in_one_line(study, monkeypatch, capfd):
    forward = Net.forward

    def overflown(self, volume):
        found = forward(self, volume)
        return found if self.training else found._replace(logits=found.logits * math.nan)

    monkeypatch.setattr(Net, "forward", overflown)
    monkeypatch.setattr("medical_fenlei.training.run.build_model", lambda *args, **kwargs: Net())
    assert run("train_ear2d", *TRAIN, "--output-dir", "outputs/run") == 1
    said = capfd.readouterr().err
    (said,) = [line for line in said.splitlines() if not line.startswith("warning: ")]
    assert "epoch 1: " in said and "not finite" in said and "--lr" in said

"""A run that was stopped, or whose checkpoint is damaged, ends with the same bits, whatever checkpoints it keeps."""
import io
import json
import random
import shutil

import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.locks import held
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study

from medical_fenlei.errors import UserError
from medical_fenlei.runs import Run
from medical_fenlei.training.checkpoint import FOOTER
from medical_fenlei.training.loop import Trainer

FREELY = ("train_ear2d", "--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100,
         "--backbone", "test_resnet", "--batch-size", 5,
         "--patience", 0, "--seed", 3, "--dropout", 0.3)
TRAIN = (*FREELY, "--epochs", 3)
KEPT = {"plain": (), "accumulated": ("--grad-accum", 3), "averaged": ("--ema", 0.7),
        "all": ("--ema", 0.5, "--freeze-backbone-epochs", 1, "--precision", "bf16", "--loss", "focal",
                "--drop-high-loss", 0.2, "--drop-warmup-epochs", 1, "--windows", "bone,soft", "--slice-context", 1)}


@pytest.fixture
def study(tmp_path, monkeypatch):
    write_study(tmp_path, {"train": codes_in_turn("abcdef"), "tune": codes_in_turn("gh"), "val": codes_in_turn("ij")})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)


def same(one, other, name="last"):
    for own, of_other in zip(checkpoint(one, name)["weights"].items(), checkpoint(other, name)["weights"].items(), strict=True):
        assert own[0] == of_other[0]
        torch.testing.assert_close(own[1], of_other[1], rtol=0, atol=0)


@pytest.mark.parametrize("kept", KEPT)
def test_a_stopped_run_ends_with_the_same_bits_whatever_checkpoints_it_keeps(study, monkeypatch, kept):
    assert run(*TRAIN, *KEPT[kept], "--output-dir", "outputs/whole") == 0
    save = Trainer._save

    def stopped_after_the_first_epoch(self, improved):
        save(self, improved)
        if self.progress.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", stopped_after_the_first_epoch)
        assert run(*TRAIN, *KEPT[kept], "--output-dir", "outputs/stopped") == 75
    assert run("train_ear2d", "--resume", "outputs/stopped") == 0
    for name in ("last", "best"):
        same(study / "outputs/whole", study / "outputs/stopped", name)
    if kept in ("averaged", "all"):
        averages = [checkpoint(study / f"outputs/{which}")["state"]["step"]["average"].values()
                    for which in ("whole", "stopped")]
        for a, b in zip(*averages, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_small_training_set_is_passed_several_times_in_an_epoch_and_a_stopped_run_ends_with_the_same_bits(study, monkeypatch):
    """Twelve ears in batches of 5: four passes give ten steps, three would give eight."""
    monkeypatch.setattr("medical_fenlei.training.schedule.EPOCHS", 3)
    assert run(*FREELY, "--min-steps", 28, "--output-dir", "outputs/whole") == 0
    taken, step = [], Trainer._step

    def stopped_in_the_second_epoch(self, *args, **names):
        taken.append(args[1].row.tolist())
        if len(taken) == 16:
            self.stop.received = True
        return step(self, *args, **names)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", stopped_in_the_second_epoch)
        assert run(*FREELY, "--min-steps", 28, "--output-dir", "outputs/stopped") == 75
    assert run("train_ear2d", "--resume", "outputs/stopped") == 0
    same(study / "outputs/whole", study / "outputs/stopped")
    for folder in (study / "outputs/whole", study / "outputs/stopped"):
        plan = json.loads((folder / "config.json").read_text())
        assert plan["schedule"] == {"epochs": 3, "passes": 4, "steps": 10, "stops_from": 3, "chosen_from": 2}
        assert plan["settings"]["training"]["epochs"] is None
        assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
        (state,) = {int(each["step"]) for each in checkpoint(folder)["state"]["step"]["optimizer"]["state"].values()}
        assert state == 30
    assert len(taken) == 16 and sum(map(len, taken[:10])) == 4 * 12


def flipped(content, place):
    """With one bit of the byte at this place turned over."""
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:]


def harmed(content):
    """The same checkpoint with what may befall it; None where it is gone."""
    chance, size = random.Random(0), len(content)
    tensor = content.index(np.ascontiguousarray(torch.load(io.BytesIO(content))["weights"]["head.weight"]).tobytes())
    return {"cut short": content[: size // 2], "empty": b"", "gone": None,
            "a bit of the header": flipped(content, chance.randrange(64)),
            "a bit of a weight": flipped(content, tensor + chance.randrange(64)),
            "a bit of the directory": flipped(content, size - FOOTER - chance.randrange(2, 64)),
            "a bit of the checksum": flipped(content, size - chance.randrange(1, 64)),
            "a bit anywhere": flipped(content, chance.randrange(size))}


def test_a_checkpoint_that_is_damaged_or_gone_is_passed_over_for_the_one_before_it(study):
    assert run(*TRAIN, "--output-dir", "outputs/whole") == 0
    for harm, content in harmed((study / "outputs/whole/checkpoints/last.pt").read_bytes()).items():
        folder = study / "outputs" / harm
        shutil.copytree("outputs/whole", folder)
        last = folder / "checkpoints/last.pt"
        last.unlink()                                             # not written through: the one before may be the same file
        if content is not None:
            last.write_bytes(content)
        assert run("train_ear2d", "--resume", folder) == 0, harm
        for name in ("last", "last-1", "best"):                   # the damaged one is kept nowhere
            same(study / "outputs/whole", folder, name)
        said = (folder / "train.log").read_text()
        assert "resuming after epoch 2" in said and ("last.pt" in said.partition("resuming")[0]) == (content is not None), harm
        lines = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines == [1, 2, 3], harm
        shutil.rmtree(folder)


def test_as_many_checkpoints_are_kept_as_were_asked_for_each_of_its_own_epoch(study):
    assert run(*TRAIN, "--keep-last", 3, "--epochs", 5, "--output-dir", "outputs/run") == 0
    names = sorted(path.name for path in (study / "outputs/run/checkpoints").iterdir())
    assert names == ["best.pt", "last-1.pt", "last-2.pt", "last.pt"]
    assert [checkpoint(study / "outputs/run", name)["epoch"] for name in ("last", "last-1", "last-2")] == [5, 4, 3]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_not_begun_anew(study, capfd):
    assert run(*TRAIN, "--epochs", 2, "--output-dir", "outputs/run") == 0
    for name in ("last", "last-1"):
        (study / f"outputs/run/checkpoints/{name}.pt").unlink()
        (study / f"outputs/run/checkpoints/{name}.pt").write_bytes(b"nothing")
    assert run("train_ear2d", "--resume", "outputs/run") == 2
    assert "is not a checkpoint" in capfd.readouterr().err


def test_a_second_process_in_the_folder_of_a_run_is_refused_and_changes_nothing(study, capfd):
    folder, short = study / "outputs/run", (*TRAIN, "--epochs", 1, "--output-dir", "outputs/run")
    folder.mkdir(parents=True)

    def refused(*words):
        with held(folder / ".lock") as process:
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
            assert run(*words) == 2
            err = capfd.readouterr().err
            assert "another process is training in it" in err and f"process {process} on " in err
            assert before == {path: path.read_bytes() for path in before}

    refused(*short)
    assert not (folder / "config.json").exists() and run(*short) == 0
    refused("train_ear2d", "--resume", "outputs/run")
    assert run("train_ear2d", "--resume", "outputs/run") == 0


def test_of_two_starts_in_one_folder_the_later_one_finds_the_run_of_the_first(tmp_path):
    first, second = Run.new(tmp_path, "ear2d"), Run.new(tmp_path, "ear2d")               # both before either has a config
    with first.exclusive(is_new=True):
        first.write_config({}, {})
    with pytest.raises(UserError, match="contains a run already"), second.exclusive(is_new=True):
        pass
    with first.exclusive(is_new=False):                          # a resumption
        pass


def test_a_frozen_backbone_keeps_its_weights_and_statistics_and_then_learns(study, monkeypatch):
    seen = {}
    save = Trainer._save

    def noting(self, improved):
        seen[self.progress.epoch] = {name: value.clone() for name, value in self.model.state_dict().items()}
        save(self, improved)

    start = Trainer.fit

    def from_the_start(self):
        seen[0] = {name: value.clone() for name, value in self.model.state_dict().items()}
        return start(self)

    monkeypatch.setattr(Trainer, "_save", noting)
    monkeypatch.setattr(Trainer, "fit", from_the_start)
    assert run(*TRAIN, "--freeze-backbone-epochs", 2, "--output-dir", "outputs/run") == 0
    trunk = [name for name in seen[0] if name.startswith("backbone.")]
    for epoch in (1, 2):
        assert all(torch.equal(seen[epoch][name], seen[0][name]) for name in trunk)
    assert not torch.equal(seen[1]["head.weight"], seen[0]["head.weight"])
    assert sum(not torch.equal(seen[3][name], seen[0][name]) for name in trunk) > len(trunk) / 2


def test_the_network_that_is_measured_and_kept_is_the_running_mean(study):
    assert run(*TRAIN, "--ema", 0.9, "--epochs", 1, "--output-dir", "outputs/run") == 0
    best, last = checkpoint(study / "outputs/run", "best"), checkpoint(study / "outputs/run")
    mean = last["state"]["step"]["average"].items()
    average = {name.removeprefix("module."): value for name, value in mean if name != "n_averaged"}
    assert best["weights"].keys() == average.keys() == last["weights"].keys()
    assert all(torch.equal(best["weights"][name], average[name]) for name in average)
    assert not torch.equal(best["weights"]["head.weight"], last["weights"]["head.weight"])


def test_running_out_of_memory_splits_the_steps_of_a_run_and_it_continues(study, monkeypatch):
    from medical_fenlei.models.ear2d import Ear2d

    forward, sizes = Ear2d.forward, []

    def small(self, volume):
        if self.training:
            if len(volume) > 3 and len(sizes) >= 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(volume))
        return forward(self, volume)

    monkeypatch.setattr(Ear2d, "forward", small)
    assert run(*TRAIN, "--output-dir", "outputs/run") == 0
    assert max(sizes[2:]) <= 3 and "into 2 micro-batches" in (study / "outputs/run/train.log").read_text()
    assert checkpoint(study / "outputs/run")["state"]["step"]["parts"] == 2
    losses = [json.loads(line)["train_loss"] for line in (study / "outputs/run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3 and np.isfinite(losses).all()


def test_an_error_during_a_run_leaves_it_resumable(study, monkeypatch):
    from medical_fenlei.errors import UserError

    save = Trainer._save

    def disk_fails_after_the_first_epoch(self, improved):
        save(self, improved)
        raise UserError("ears/1.npy: cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", disk_fails_after_the_first_epoch)
        assert run(*TRAIN, "--output-dir", "outputs/run") == 2
    assert run("train_ear2d", "--resume", "outputs/run") == 0
    assert checkpoint(study / "outputs/run")["epoch"] == 3

"""Training dynamics: the logits of each training ear, epoch by epoch."""
import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import EAR2D as EAR
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.errors import UserError
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.dynamics import TrainingDynamics, read_training_dynamics
from medical_fenlei.training.loop import Trainer

WORDS = ("--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100, "--batch-size", 4, "--device",
         "cpu", "--epochs", 2, "--seed", 3, "--warmup-epochs", 0, "--balance", "none")
EAR2D = ("train_ear2d", *WORDS, "--backbone", "test_resnet")


@pytest.fixture
def study(tmp_path, monkeypatch):
    write_study(tmp_path, {"train": codes_in_turn("abcdef"), "tune": codes_in_turn("gh"), "val": codes_in_turn("ij")})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_training_ear_has_logits_in_every_epoch_on_both_routes(study):
    assert run(*EAR2D, "--label-task", "six_class", "--output-dir", "outputs/ear") == 0
    assert run("train_dual", *WORDS, "--model", "dual_slice_attention", "--output-dir", "outputs/dual") == 0
    for name in ("ear", "dual"):
        ears, answers = read_training_dynamics(Run(study / "outputs" / name))
        assert answers.shape == (2, 12, 6) and answers.dtype == np.float32 and np.isfinite(answers).all()
        manifest = tables.MANIFEST.read(study / MANIFEST)
        train = manifest[manifest.exam_id.isin(tables.read_split(study / SPLITS, 100).sets["train"].exam_id)]
        expected = train[["exam_id", "side", "label_code"]].reset_index(drop=True)
        assert ears.sort_values(["exam_id", "side"]).to_numpy().tolist() == expected.sort_values(
            ["exam_id", "side"]).to_numpy().tolist()


def test_logits_belong_to_the_ear_of_their_row(study):
    """Without learning, augmentation and BatchNorm they equal the prediction of that ear."""
    still = [word for name in ("jitter-level", "jitter-width", "rotate-deg", "shift", "scale", "noise", "blur", "dropout",
                               "weight-decay") for word in (f"--{name}", 0)]
    assert run("train_ear2d", *WORDS, "--backbone", "test_convnext", *still, "--lr", 1e-12, "--precision", "fp32",
               "--output-dir", "outputs/a") == 0
    ears, answers = read_training_dynamics(Run(study / "outputs/a"))
    trained = open_network(study / "outputs/a/checkpoints/best.pt", kind=EAR, device="cpu")
    said = trained.infer(EarDataset(trained.store(trained.config.data), ears)).logits
    assert np.ptp(said) > 1e-4
    np.testing.assert_allclose(answers[0], said, atol=1e-6)


def test_ears_seen_twice_have_the_mean_and_unseen_ears_have_none(tmp_path):
    run_ = Run(tmp_path)
    ears = tables.TRAINING_EARS.frame([{"exam_id": f"e{n}", "side": "left", "label_code": 5} for n in range(4)])
    kept = TrainingDynamics()
    kept.step(np.array([2, 0])).append(torch.tensor([[1.0], [2.0]]))
    parts = kept.step(np.array([2, 1]))
    parts += [torch.tensor([[3.0]]), torch.tensor([[-1.0]])]                 # a step in parts
    kept.step(np.array([3]))                                                 # a step that was never taken
    kept.end_epoch(1, run_, ears, Ranks())
    kept.step(np.array([3])).append(torch.tensor([[7.0]]))
    kept.end_epoch(2, run_, ears, Ranks())
    _, answers = read_training_dynamics(run_)
    np.testing.assert_array_equal(answers[:, :, 0], [[2.0, -1.0, 2.0, np.nan], [np.nan, np.nan, np.nan, 7.0]])


def test_a_run_that_is_resumed_between_epochs_keeps_the_same_logits(study, monkeypatch):
    assert run(*EAR2D, "--output-dir", "outputs/whole") == 0
    save = Trainer._save

    def stopped_after_the_first_epoch(self, improved):
        save(self, improved)
        if self.progress.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", stopped_after_the_first_epoch)
        assert run(*EAR2D, "--output-dir", "outputs/stopped") == 75
    assert run("train_ear2d", "--resume", "outputs/stopped") == 0
    whole, stopped = (read_training_dynamics(Run(study / "outputs" / name))[1] for name in ("whole", "stopped"))
    np.testing.assert_array_equal(whole, stopped)


def test_training_dynamics_that_are_missing_or_invalid_are_refused(tmp_path):
    with pytest.raises(UserError, match="no training dynamics"):
        read_training_dynamics(Run(tmp_path))
    kept, frame = TrainingDynamics(), tables.TRAINING_EARS.frame([{"exam_id": "a", "side": "left", "label_code": 5}])
    kept.step(np.array([0])).append(torch.zeros(1, 1))
    kept.end_epoch(1, Run(tmp_path), frame, Ranks())
    np.save(tmp_path / "answers/epoch_0002.npy", np.zeros((3, 1), np.float32))
    with pytest.raises(UserError, match="for each of the 1 ears"):
        read_training_dynamics(Run(tmp_path))
    (tmp_path / "answers/epoch_0002.npy").write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read as an array"):
        read_training_dynamics(Run(tmp_path))

"""Both routes learn the same on the same ears with the same network."""
import numpy as np
import pytest
from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study

from medical_fenlei.config import EarSpec
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task
from medical_fenlei.trained.network import open_network

STILL = ("--jitter-level", 0, "--jitter-width", 0, "--rotate-deg", 0, "--shift", 0, "--scale", 0, "--noise", 0, "--blur", 0)
SAME = ("--pct", 100, "--backbone", "test_resnet", "--dropout", 0, "--batch-size", 64, "--epochs", 2, "--lr", 3e-5,
        "--precision", "fp32", "--device", "cpu", "--early-stop-metric", "accuracy", "--cache-dir", CACHE, *STILL)
"""A batch holds the whole set: an epoch is one step on either route. The step is small, since the first of Adam is the sign of
the gradient, which may turn with the order of a sum where it is nearly 0."""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Ten exams to train on, of which two lack an ear and one a label, and three to tune."""
    folder = tmp_path_factory.mktemp("study")
    train = {**codes_in_turn("abcdefg"), "exam_h": (None, 2), "exam_i": (5, None), "exam_j": (0, 5)}
    spec = EarSpec(num_slices=4, image_size=32, extent="half")
    write_study(folder, {"train": train, "tune": codes_in_turn("xyz", seed=1)}, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("balance", ["none", "loss"])
@pytest.mark.parametrize("task", ["six_class", "normal_vs_abnormal", "cholesteatoma_vs_csoma"])
def test_ears_alone_and_by_exam_give_the_same_losses_and_the_same_predictions(here, task, balance):
    common = (*SAME, "--label-task", task, "--balance", balance)
    folders = {kind: here / "outputs" / f"{kind}_{task}_{balance}" for kind in ("ear2d", "dual")}
    assert run("train_ear2d", *common, "--output-dir", folders["ear2d"]) == 0
    assert run("train_dual", *common, "--model", "dual_slice_attention", "--output-dir", folders["dual"]) == 0
    lines = {kind: list(Run(folder).read_metrics()) for kind, folder in folders.items()}
    for name in ("train_loss", "tune_loss", "lr", "tune_auroc", "tune_accuracy"):
        found = [[line[name] for line in lines[kind]] for kind in ("ear2d", "dual")]
        assert len(found[0]) == 2
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6, err_msg=name)
    assert abs(np.diff([line["train_loss"] for line in lines["dual"]])) > 1e-3                   # something was learned

    frames = {}
    for kind, folder in folders.items():
        trained = open_network(folder / "checkpoints/last.pt", kind=kind, device="cpu")
        store = EarStore(trained.config.data.cache_dir, trained.config.ears)
        sources = find_ears(trained.config.data, store, [find_task(task)], ("train",))
        dataset = sources.dataset(store, "train")
        assert dataset.groups.shape[1] == {"ear2d": 1, "dual": 2}[kind]
        frames[kind] = trained.predict(dataset)[task].set_index(["exam_id", "side"]).sort_index()
    one, two = frames["ear2d"], frames["dual"]
    assert one.index.equals(two.index) and one.y_true.equals(two.y_true)
    numbers = [name for name in one if name.startswith(("y_prob", "prob_"))]
    np.testing.assert_allclose(one[numbers], two[numbers], rtol=0, atol=1e-6)

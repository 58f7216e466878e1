"""Few-shot learning on embeddings: chance is chance, perfect is perfect, and nothing of validation helps to choose."""
import json

import numpy as np
import pytest
from commands import run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from medical_fenlei import tables
from medical_fenlei.analysis.embeddings import Embeddings
from medical_fenlei.analysis.fewshot import METHODS, _standardised, few_shot, neighbours
from medical_fenlei.errors import UserError
from medical_fenlei.tasks import find_task

TASK = find_task("normal_vs_cholesterol_granuloma")


def draw(seed, patients, positive, *, signal=0.0, size=24, name="p"):
    """Two ears a patient, the first of `positive` of them with code 4, the others normal; each patient has an own offset."""
    rng = np.random.default_rng(seed)
    code = np.full(2 * patients, 5)
    code[2 * rng.permutation(patients)[:positive]] = 4
    own = rng.normal(0, 0.7, (patients, size)).repeat(2, 0)
    x = own + rng.normal(0, 1, own.shape) + signal * (code == 4)[:, None] * np.linspace(1, 0, size)
    number = np.arange(2 * patients)
    return Embeddings(embedding=x.astype(np.float32), exam_id=np.array([f"{name}{i // 2:04d}" for i in number]),
                      side=np.where(number % 2, "right", "left"),
                      patient_key=np.array([f"key_{name}{i // 2}" for i in number]), label_code=code.astype(np.int8))


@pytest.mark.parametrize("method", METHODS)
def test_a_random_embedding_has_auroc_one_half_within_its_interval(method):
    held, areas = 0, []
    for seed in range(12):
        found = few_shot(draw([seed, 0], 60, 15), draw([seed, 1], 60, 15, name="q"), TASK, draws=300)
        area = found.intervals[method].values["auroc"]
        held += area.low <= 0.5 <= area.high
        areas.append(area.estimate)
    assert held >= 10                                            # of twelve 95 % intervals three miss in 1 study of 50
    assert abs(np.mean(areas) - 0.5) < 0.08


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_embedding_has_auroc_one(method):
    found = few_shot(draw(0, 40, 9, signal=12), draw(1, 40, 9, signal=12, name="q"), TASK, draws=200).intervals[method]
    assert found.values["auroc"] == (1.0, 1.0, 1.0, "") and found.values["auprc"].estimate == 1.0


def test_scores_are_those_of_slow_formulas():
    train, val = draw(2, 30, 8, signal=1), draw(3, 20, 6, signal=1, name="q")
    y = (train.label_code == 4).astype(int)
    x, asked = _standardised(train.embedding, val.embedding)
    scaler = StandardScaler().fit(train.embedding.astype(float))
    np.testing.assert_allclose(x, scaler.transform(train.embedding.astype(float)), atol=1e-9)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=5000).fit(x, y)
    np.testing.assert_allclose(METHODS["logistic"][0](x, y, asked, 0.01), model.decision_function(asked), atol=1e-9)
    called = METHODS["prototype"][0](x, y, asked, "euclidean") > 0
    assert (called == (NearestCentroid().fit(x, y).predict(asked) == 1)).all()
    far = pairwise_distances(asked, x, metric="cosine")
    slow = [np.sort(row[y == 0])[:3].mean() - np.sort(row[y == 1])[:3].mean() for row in far]
    np.testing.assert_allclose(METHODS["knn"][0](x, y, asked, 3), slow, atol=1e-9)


def test_figures_are_those_of_the_scores():
    val = draw(5, 30, 8, signal=1, name="q")
    found = few_shot(draw(4, 30, 8, signal=1), val, TASK, draws=50)
    for method, intervals in found.intervals.items():
        expected = roc_auc_score(found.scores.y_true, found.scores[f"score_{method}"])
        assert intervals.values["auroc"].estimate == pytest.approx(expected)
    assert found.counts["val"] == {"positive_ears": 8, "positive_patients": 8, "negative_ears": 52, "negative_patients": 30}


def test_nothing_of_validation_changes_what_is_chosen():
    train = draw(6, 40, 10, signal=0.8)
    chosen = [few_shot(train, draw([7, seed], 20, 5, signal=seed, name="q"), TASK, draws=20).chosen for seed in range(3)]
    assert chosen[0] == chosen[1] == chosen[2]
    assert all(0 <= area <= 1 for method in chosen[0].values() for area in method["cross_validated_auroc"].values())


def test_neither_the_order_of_ears_nor_the_name_of_a_patient_changes_a_figure():
    train, val = draw(8, 30, 9, signal=0.8), draw(9, 24, 7, signal=0.8, name="q")

    def shuffled(ears, seed):
        ears = ears[np.random.default_rng(seed).permutation(len(ears))]
        renamed = {key: f"{hash((seed, key)):x}" for key in ears.patient_key.tolist()}
        return Embeddings(**{**vars(ears), "patient_key": np.array([renamed[key] for key in ears.patient_key.tolist()])})

    one, two = few_shot(train, val, TASK, draws=100), few_shot(shuffled(train, 1), shuffled(val, 2), TASK, draws=100)
    names = ["exam_id", "side"]
    a, b = (f.scores.sort_values(names).reset_index(drop=True).drop(columns="patient_key") for f in (one, two))
    np.testing.assert_allclose(a.filter(like="score_").to_numpy(), b.filter(like="score_").to_numpy(), atol=1e-9)
    for method in METHODS:
        for name, interval in one.intervals[method].values.items():
            np.testing.assert_allclose(interval[:3], two.intervals[method].values[name][:3], atol=1e-9)
    assert one.chosen == two.chosen


def test_the_nearest_cases_are_the_nearest_of_other_patients():
    train = draw(10, 12, 4)
    twin = train[np.arange(10)]                                  # the same ears again: nearest to themselves, and not allowed
    near = neighbours(train, twin)
    patient = dict(zip(train.exam_id.tolist(), train.patient_key.tolist(), strict=True))
    assert (near.exam_id.map(patient) != near.neighbour_exam_id.map(patient)).all()
    x, asked = _standardised(train.embedding, twin.embedding)
    far = pairwise_distances(asked, x, metric="cosine")
    for v in range(len(twin)):
        others = sorted((far[v, t], train.exam_id[t], train.side[t]) for t in range(len(train))
                        if train.patient_key[t] != twin.patient_key[v])[:5]
        own = near[(near.exam_id == twin.exam_id[v]) & (near.side == twin.side[v])]
        assert list(own["rank"]) == [1, 2, 3, 4, 5]
        assert [*zip(own.neighbour_exam_id, own.neighbour_side, strict=True)] == [o[1:] for o in others]
        np.testing.assert_allclose(own.distance, [o[0] for o in others], atol=1e-9)


def test_training_ears_of_a_validated_patient_are_left_out_and_said():
    train, val = draw(11, 20, 6), draw(12, 20, 6, name="q")
    four = val[np.arange(4)]
    mixed = Embeddings(**{name: np.concatenate([getattr(train, name), getattr(four, name)]) for name in vars(train)})
    found, alone = few_shot(mixed, val, TASK, draws=20), few_shot(train, val, TASK, draws=20)
    assert any("4 training ears" in text for text in found.warnings)
    assert found.scores.equals(alone.scores) and found.counts == alone.counts


def test_one_positive_patient_still_gives_scores_and_no_positive_is_an_error():
    val = draw(13, 20, 5, name="q")
    found = few_shot(draw(14, 20, 1), val, TASK, draws=20)
    assert any("nothing could be chosen" in text for text in found.warnings) and found.counts["train"]["positive_ears"] == 1
    assert all(chosen["setting"] == METHODS[name][1][0] for name, chosen in found.chosen.items())
    with pytest.raises(UserError, match="0 positive"):
        few_shot(draw(14, 20, 0), val, TASK)
    only_normal = few_shot(draw(14, 20, 4), draw(13, 20, 0, name="q"), TASK, draws=20)
    assert all(np.isnan(i.values["auroc"].estimate) and i.values["auroc"].reason for i in only_normal.intervals.values())


def test_the_command_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(15, 30, 8, signal=2).write(tmp_path / "artifacts/emb_train.npz")
    draw(16, 24, 6, signal=2, name="q").write(tmp_path / "artifacts/emb_val.npz")
    assert run("fewshot_code4", "--task", "正常vs胆固醇肉芽肿", "--draws", 50) == 0
    said = capsys.readouterr()
    assert "train: 8 positive ears of 8 patients, 52 negative of 30" in said.out and "only 6 validation patients" in said.err
    folder = tmp_path / "artifacts/fewshot_normal_vs_cholesterol_granuloma"
    assert len(tables.FEWSHOT.read(folder / "predictions.csv")) == 48
    assert len(tables.NEIGHBOURS.read(folder / "neighbours.csv")) == 5 * 48
    told = json.loads((folder / "metrics.json").read_text())
    assert set(told["metrics"]) == set(METHODS) and len(told["data"]["train"]) == 64
    assert (folder / "fewshot.png").read_bytes().startswith(b"\x89PNG")


def spoilt(tmp_path, **arrays):
    ears = draw(0, 4, 2)
    content = {name: np.asarray(getattr(ears, name)) for name in vars(ears)} | arrays
    np.savez(tmp_path / "bad.npz", **{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(("arrays", "says"), [
    ({"patient_key": None}, "has no 'patient_key'"),
    ({"embedding": np.zeros((8, 3))}, "expected float32 (N, D)"),
    ({"embedding": np.full((8, 3), np.nan, np.float32)}, "not finite"),
    ({"label_code": np.zeros(7, np.int8)}, "label_code: got (7,)"),
    ({"label_code": np.full(8, 9, np.int8)}, "0 to 6"),
    ({"side": np.array(["left"] * 8)}, "holds an ear twice"),
    ({"exam_id": np.arange(8)}, "expected text"),
    ({"exam_id": np.array([{"pickled": True}] * 8, dtype=object)}, "is not a file of embeddings"),
])
def test_a_file_that_is_not_embeddings_is_refused_in_one_line(tmp_path, capsys, arrays, says):
    spoilt(tmp_path, **arrays)
    draw(1, 4, 2).write(tmp_path / "good.npz")
    assert run("fewshot_code4", "--train-npz", tmp_path / "bad.npz", "--val-npz", tmp_path / "good.npz") == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_other_bad_input_is_refused_in_one_line(tmp_path, capsys):
    good = tmp_path / "good.npz"
    draw(1, 4, 2).write(good)
    (tmp_path / "text.npz").write_text("embedding")
    draw(2, 4, 2, size=7, name="q").write(tmp_path / "other.npz")
    for words, says in (((good, tmp_path / "none.npz"), "no such file"), ((good, tmp_path / "text.npz"), "is not a file"),
                        ((good, tmp_path / "other.npz"), "got 7 numbers an ear")):
        assert run("fewshot_code4", "--train-npz", words[0], "--val-npz", words[1]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1
    assert run("fewshot_code4", "--train-npz", good, "--val-npz", good, "--task", "six_class") == 2

"""Few-shot learning on embeddings: chance is chance, perfect is perfect, and the choice of settings never uses validation."""
import hashlib
import json

import numpy as np
import pytest
from helpers.commands import run
from helpers.small_embeddings import draw, joined, with_changes
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medical_fenlei import tables
from medical_fenlei.embeddings.classifiers import METHODS
from medical_fenlei.embeddings.fewshot import few_shot
from medical_fenlei.embeddings.vectors import standardised
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.bootstrap import canonical_patients
from medical_fenlei.tasks import find_task

TASK = find_task("normal_vs_cholesterol_granuloma")


@pytest.mark.parametrize("method", METHODS)
def test_a_random_embedding_has_auroc_one_half_within_its_interval(method):
    held, areas = 0, []
    for seed in range(12):
        found = few_shot(draw([seed, 0], 60, 15), draw([seed, 1], 60, 15, name="q"), TASK, n_resamples=300)
        area = found.intervals[method].values["auroc"]
        held += area.low <= 0.5 <= area.high
        areas.append(area.estimate)
    assert held >= 10                                            # of twelve 95 % intervals three miss in 1 study of 50
    assert abs(np.mean(areas) - 0.5) < 0.08


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_embedding_has_auroc_one(method):
    found = few_shot(draw(0, 40, 9, signal=12), draw(1, 40, 9, signal=12, name="q"), TASK, n_resamples=200).intervals[method]
    area = found.values["auroc"]
    assert (area.estimate, area.high) == (1, 1) and "limit" in area.reason
    assert area.low == pytest.approx(0.025 ** (1 / 9)) and found.values["auprc"].estimate == 1       # nine patients, all right


def test_scores_equal_slow_formulas():
    train, val = draw(2, 30, 8, signal=1), draw(3, 20, 6, signal=1, name="q")
    y = (train.label_code == 4).astype(int)
    x, query = standardised(train.embedding, val.embedding)
    scaler = StandardScaler().fit(train.embedding.astype(float))
    np.testing.assert_allclose(x, scaler.transform(train.embedding.astype(float)), atol=1e-9)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=5000).fit(x, y)
    np.testing.assert_allclose(METHODS["logistic"][0](x, y, query, 0.01), model.decision_function(query), atol=1e-9)
    called = METHODS["prototype"][0](x, y, query, "euclidean") > 0
    assert (called == (NearestCentroid().fit(x, y).predict(query) == 1)).all()
    far = pairwise_distances(query, x, metric="cosine")
    slow = [np.sort(row[y == 0])[:3].mean() - np.sort(row[y == 1])[:3].mean() for row in far]
    np.testing.assert_allclose(METHODS["knn"][0](x, y, query, 3), slow, atol=1e-9)


def test_figures_are_those_of_the_scores():
    val = draw(5, 30, 8, signal=1, name="q")
    found = few_shot(draw(4, 30, 8, signal=1), val, TASK, n_resamples=50)
    for method, intervals in found.intervals.items():
        expected = roc_auc_score(found.scores.y_true, found.scores[f"score_{method}"])
        assert intervals.values["auroc"].estimate == pytest.approx(expected)
    assert found.counts["val"] == {"positive_ears": 8, "positive_patients": 8, "negative_ears": 52, "negative_patients": 30}


def test_nothing_of_validation_changes_what_is_chosen():
    train = draw(6, 40, 10, signal=0.8)
    chosen = [few_shot(train, draw([7, seed], 20, 5, signal=seed, name="q"), TASK, n_resamples=20).chosen for seed in range(3)]
    assert chosen[0] == chosen[1] == chosen[2]
    assert all(0 <= area <= 1 for method in chosen[0].values() for area in method["cross_validated_auroc"].values())


def shuffled(ears, seed):
    """The same ears in another order, their patients under other names in another order."""
    rng = np.random.default_rng(seed)
    keys, person = np.unique(ears.patient_key, return_inverse=True)
    renamed = np.array([f"{seed}_{number:04d}" for number in rng.permutation(len(keys))])[person]
    return with_changes(ears, patient_key=renamed)[rng.permutation(len(ears))]


@pytest.mark.parametrize("dead", [0, 16])
def test_neither_the_order_of_ears_nor_the_name_of_a_patient_changes_a_figure(dead):
    """Nor where the first numbers are 0 for every ear, as behind a ReLU, and both ears of a patient look the same."""
    def cohort(seed, patients, positive, name):
        ears = draw(seed, patients, positive, signal=0.8, name=name)
        x = ears.embedding * (np.arange(24) >= dead)
        return with_changes(ears, embedding=x[np.arange(len(x)) // 2 * 2] if dead else x)

    train, val = cohort(8, 30, 9, "p"), cohort(9, 24, 7, "q")
    one = few_shot(train, val, TASK, n_resamples=100)
    for seed in range(3):
        two = few_shot(shuffled(train, 2 * seed + 1), shuffled(val, 2 * seed + 2), TASK, n_resamples=100)
        a, b = (f.scores.sort_values(["exam_id", "side"]) for f in (one, two))
        np.testing.assert_allclose(a.filter(like="score_").to_numpy(), b.filter(like="score_").to_numpy(), atol=1e-9)
        for method in METHODS:
            for name, interval in one.intervals[method].values.items():
                np.testing.assert_allclose(interval[:3], two.intervals[method].values[name][:3], atol=1e-9)
        assert one.chosen == two.chosen
        names = ["exam_id", "side", "rank"]
        near, again = (f.neighbors.sort_values(names).reset_index(drop=True) for f in (one, two))
        assert near.drop(columns="distance").equals(again.drop(columns="distance"))


def test_ears_with_the_same_embedding_have_the_same_score():
    val = draw(24, 40, 9, signal=0.8, name="q")
    twins = with_changes(val, embedding=val.embedding[np.arange(80) // 2])
    scores = few_shot(draw(23, 40, 9, signal=0.8), twins, TASK, n_resamples=5).scores.filter(like="score_").to_numpy()
    assert (scores[::2] == scores[1::2]).all()                   # a tie, not a difference in the last bit


def test_cross_validated_figures_equal_a_pipeline_fitted_without_the_patients_of_the_fold():
    train = draw(20, 40, 12, signal=0.6, size=12)
    train = with_changes(train, embedding=train.embedding * np.float32(10) ** np.arange(-6, 6, dtype=np.float32))
    found = few_shot(train, draw(21, 10, 3, size=12, name="q"), TASK, n_resamples=5).chosen["logistic"]
    order = np.lexsort((*train.embedding.T[::-1], train.label_code))
    x, y, key = train.embedding[order].astype(float), (train.label_code[order] == 4).astype(int), train.patient_key[order]
    content = np.column_stack([train.label_code, train.embedding])[order]
    _, patient = canonical_patients(key, content)
    for c, figure in found["cross_validated_auroc"].items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=float(c), class_weight="balanced", max_iter=5000))
        right = pairs = 0
        for fit, check in StratifiedGroupKFold(5).split(x, y, patient):
            assert not {*key[fit]} & {*key[check]}
            score = model.fit(x[fit], y[fit]).decision_function(x[check])
            difference = score[y[check] == 1][:, None] - score[y[check] == 0][None]
            right, pairs = right + (difference > 0).sum(), pairs + difference.size
        assert figure == pytest.approx(right / pairs, abs=1e-9)
    assert found["folds"] == 5 and found["auroc"] == max(found["cross_validated_auroc"].values())


def test_the_setting_with_the_best_cross_validated_figure_is_chosen_and_the_first_of_equals():
    taken = set()
    for seed in range(4):
        found = few_shot(draw([22, seed], 40, 12, signal=0.6), draw(21, 10, 3, name="q"), TASK, n_resamples=5)
        for name, chosen in found.chosen.items():
            figures = [chosen["cross_validated_auroc"][str(setting)] for setting in METHODS[name][1]]
            assert chosen["setting"] == METHODS[name][1][int(np.argmax(figures))] and chosen["auroc"] == max(figures)
            taken.add((name, chosen["setting"]))
    assert len(taken) > len(METHODS)                             # else the first would do


def test_neither_scale_nor_origin_of_a_dimension_changes_a_score():
    train, val = draw(36, 30, 9, signal=1), draw(37, 24, 8, signal=1, name="q")
    scale = np.exp2(np.resize([-40, -3, 0, 30], 24))

    def other(ears):
        return with_changes(ears, embedding=((np.round(ears.embedding, 2) + 5) * scale).astype(np.float32))

    plain, more = (few_shot(a, b, TASK, n_resamples=5).scores.filter(like="score_") for a, b in (
        [with_changes(ears, embedding=np.round(ears.embedding, 2)) for ears in (train, val)], [other(train), other(val)]))
    np.testing.assert_allclose(more, plain, rtol=1e-4, atol=1e-4)                    # float32 holds the sum to 1e-7


def test_a_dimension_that_is_constant_in_training_has_no_influence():
    train, val = draw(34, 30, 9, signal=1), draw(35, 24, 8, signal=1, name="q")

    def wider(ears, more):
        return with_changes(ears, embedding=np.column_stack([ears.embedding, more]).astype(np.float32))

    plain = few_shot(train, val, TASK, n_resamples=5)
    more = few_shot(wider(train, np.full(60, 1e12 / 7)), wider(val, np.linspace(0, 1e9, 48)), TASK, n_resamples=5)
    np.testing.assert_allclose(more.scores.filter(like="score_"), plain.scores.filter(like="score_"), atol=1e-9)


def test_a_flipped_label_in_validation_changes_the_figures_and_nothing_else():
    train, val = draw(25, 30, 9, signal=1), draw(26, 24, 8, signal=1, name="q")
    code = val.label_code.copy()
    code[np.flatnonzero(code == 4)[0]] = 5
    one = few_shot(train, val, TASK, n_resamples=20)
    two = few_shot(train, with_changes(val, label_code=code), TASK, n_resamples=20)
    scores = ["score_prototype", "score_knn", "score_logistic"]
    assert one.chosen == two.chosen and one.scores[scores].equals(two.scores[scores])
    own = ["label_code"]
    assert one.neighbors.drop(columns=own).equals(two.neighbors.drop(columns=own))
    assert all(one.intervals[m].values["auroc"] != two.intervals[m].values["auroc"] for m in METHODS)


def test_training_ears_of_a_validation_patient_are_left_out_with_a_warning():
    train, val = draw(11, 20, 6), draw(12, 20, 6, name="q")
    found = few_shot(joined(train, val[np.arange(4)]), val, TASK, n_resamples=20)
    alone = few_shot(train, val, TASK, n_resamples=20)
    assert any("4 training ears" in text for text in found.warnings)
    assert found.scores.equals(alone.scores) and found.counts == alone.counts
    with pytest.raises(UserError, match=r"0 positive and 0 negative training ears.*40 training ears are of patients"):
        few_shot(val, val, TASK)


def test_an_exam_with_two_patient_keys_is_refused_since_patients_cannot_be_kept_apart():
    val = draw(12, 20, 6, name="q")
    with pytest.raises(UserError, match="exam q0000 has two patient keys"):
        few_shot(joined(draw(11, 20, 6), with_changes(val, patient_key=np.char.add("other_", val.patient_key))), val, TASK)


def test_ears_of_other_codes_take_no_part():
    train, val = draw(31, 30, 9, signal=1), draw(32, 24, 8, signal=1, name="q")
    other = draw(33, 10, 0, name="r")
    codes = np.resize([0, 1, 2, 3, 6], 20).astype(np.int8)
    other = with_changes(other, label_code=codes)
    found = few_shot(joined(train, other), joined(val, other), TASK, n_resamples=20)
    alone = few_shot(train, val, TASK, n_resamples=20)
    assert found.scores.equals(alone.scores) and found.neighbors.equals(alone.neighbors) and found.counts == alone.counts
    assert found.warnings == alone.warnings


def test_one_positive_patient_still_gives_scores_and_no_positive_is_an_error():
    val = draw(13, 20, 5, name="q")
    found = few_shot(draw(14, 20, 1), val, TASK, n_resamples=20)
    assert any("nothing could be chosen" in text for text in found.warnings) and found.counts["train"]["positive_ears"] == 1
    assert all(chosen["setting"] == METHODS[name][1][0] for name, chosen in found.chosen.items())
    with pytest.raises(UserError, match="0 positive"):
        few_shot(draw(14, 20, 0), val, TASK)
    only_normal = few_shot(draw(14, 20, 4), draw(13, 20, 0, name="q"), TASK, n_resamples=20)
    assert all(np.isnan(i.values["auroc"].estimate) and i.values["auroc"].reason for i in only_normal.intervals.values())
    assert any("auroc: undefined" in text for text in only_normal.warnings)


def test_the_command_writes_scores_neighbors_figures_and_a_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(15, 30, 8, signal=2).write(tmp_path / "artifacts/emb_train.npz")
    draw(16, 24, 6, signal=2, name="q").write(tmp_path / "artifacts/emb_val.npz")
    assert run("fewshot_code4", "--label-task", "正常vs胆固醇肉芽肿", "--resamples", 50) == 0
    said = capsys.readouterr()
    assert "only 6 validation patients" in said.err
    counts, _, header, *methods, wrote = said.out.splitlines()
    assert counts == "train: 8 positive ears of 8 patients, 52 negative of 30" and wrote.startswith("wrote ")
    assert header.split()[0] == "method" and [line.split()[0] for line in methods] == list(METHODS)
    folder = tmp_path / "artifacts/fewshot_normal_vs_cholesterol_granuloma"
    assert len(tables.FEWSHOT.read(folder / "predictions.csv")) == 48
    assert len(tables.NEIGHBORS.read(folder / "neighbors.csv")) == 5 * 48
    told = json.loads((folder / "metrics.json").read_text())
    assert set(told["metrics"]) == set(METHODS)
    digest = hashlib.sha256((tmp_path / "artifacts/emb_val.npz").read_bytes()).hexdigest()
    assert told["data"]["val"] == digest and told["n_resamples"] == 50 and told["counts"]["val"]["positive_patients"] == 6
    assert (folder / "fewshot.png").read_bytes().startswith(b"\x89PNG")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run("fewshot_code4", "--label-task", TASK.name, "--resamples", 50) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_other_bad_input_is_refused_in_one_line(tmp_path, capsys):
    good = tmp_path / "good.npz"
    draw(1, 4, 2).write(good)
    (tmp_path / "text.npz").write_text("embedding")
    draw(2, 4, 2, size=7, name="q").write(tmp_path / "other.npz")
    (tmp_path / "empty.npz").touch()
    with open(tmp_path / "one.npz", "wb") as file:
        np.save(file, np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-40])
    packed = bytearray(good.read_bytes())
    packed[packed.rindex(b"PK\x01\x02") + 10] = 99              # says it is packed in a way that nobody knows
    (tmp_path / "packed.npz").write_bytes(packed)
    for words, says in (((good, tmp_path / "none.npz"), "no such file"), ((good, tmp_path), "is not a file"),
                        *(((good, tmp_path / f"{name}.npz"), "is not a file")
                          for name in ("text", "empty", "one", "cut", "packed")),
                        ((good, tmp_path / "other.npz"), "got 7 numbers an ear")):
        assert run("fewshot_code4", "--train-npz", words[0], "--val-npz", words[1]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1
    for task in ("six_class", "正常"):
        assert run("fewshot_code4", "--train-npz", good, "--val-npz", good, "--task", task) == 2
        said = capsys.readouterr().err
        assert f"--label-task: got '{task}'" in said and TASK.name in said and len(said.splitlines()) == 1

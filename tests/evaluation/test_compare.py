"""Two networks on the same ears: differences equal those of the measures, with intervals that have their stated level."""
import numpy as np
import pandas as pd
import pytest
from helpers.commands import run

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.evaluation.compare import compare
from medical_fenlei.metrics.predictions import differences_of, intervals_of
from medical_fenlei.tasks import find_task

TASK = find_task("normal_vs_abnormal")


def predictions(skill, seed, *, patients=150, noise=1.0):
    """Two ears a patient; the truth and half of the noise are the same for every network."""
    rng, own = np.random.default_rng(0), np.random.default_rng(seed)
    y = rng.integers(0, 2, patients).repeat(2)
    logit = skill * (2 * y - 1) + rng.normal(size=2 * patients) + noise * own.normal(size=2 * patients)
    score = 1 / (1 + np.exp(-logit))
    return tables.PREDICTIONS.frame(pd.DataFrame({
        "exam_id": np.arange(patients).repeat(2).astype(str), "side": ["left", "right"] * patients,
        "patient_key": np.arange(patients).repeat(2).astype(str), "label_code": np.where(y == 1, 1, 5), "y_true": y,
        "y_prob": score, "y_pred": (score >= 0.5).astype(int), "top_slices": "", "top_slice_weights": ""}))


def test_the_differences_are_those_of_the_measures_whatever_the_order_of_the_rows():
    one, other = predictions(0.6, 1), predictions(1.4, 2)
    found = compare(one, other.sample(frac=1, random_state=0), TASK, n_resamples=300)
    table = found.table.set_index("metric")
    for frame, column in ((one, "one"), (other, "other")):
        for name, i in intervals_of(frame, TASK, n_resamples=10).values.items():
            assert table[column][name] == pytest.approx(i.estimate), name
    np.testing.assert_allclose(table.other - table.one, table.difference, atol=1e-12)
    assert (found.ears, found.patients, found.left_out) == (300, 150, 0)
    assert table.low["auroc"] > 0 and table.p["auroc"] < 0.01 and "variance" in table.note["auroc"]


def test_bootstrap_and_analytic_intervals_are_alike():
    one, other = predictions(0.6, 1), predictions(0.9, 2)
    exact = compare(one, other, TASK, n_resamples=10).table.set_index("metric").loc["auroc"]
    drawn = differences_of(one, other, TASK, n_resamples=3000).values["auroc"]
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_networks_of_equal_skill_differ_as_often_as_the_level_says():
    found = []
    for n in range(60):
        one, other = predictions(0.8, 2 * n + 1), predictions(0.8, 2 * n + 2)
        table = compare(one, other, TASK, n_resamples=100).table.set_index("metric")
        found.append([table.p[name] < 0.05 for name in ("auroc", "sensitivity", "brier")])
    assert (np.mean(found, axis=0) <= 0.15).all()


def test_a_network_against_itself_differs_by_nothing():
    one = predictions(0.8, 1)
    table = compare(one, one, TASK, n_resamples=50).table
    assert (table.difference.dropna() == 0).all() and table.p.isna().all()


def test_ears_that_one_network_lacks_are_left_out_and_counted():
    one, other = predictions(0.8, 1), predictions(0.8, 2)
    found = compare(one[10:], other[:-20], TASK, n_resamples=20)
    assert (found.ears, found.left_out) == (270, 30)


def test_predictions_that_cannot_be_compared_are_refused():
    one, other = predictions(0.8, 1), predictions(0.8, 2)
    with pytest.raises(UserError, match="no ear in common"):
        compare(one[:10], other[20:], TASK, n_resamples=5)
    with pytest.raises(UserError, match="different labels"):
        compare(one, other.assign(label_code=other.label_code.iloc[::-1].to_numpy()), TASK, n_resamples=5)
    with pytest.raises(UserError, match="another task"):
        compare(one, other, find_task("cholesteatoma_vs_csoma"), n_resamples=5)


@pytest.mark.parametrize(("cell", "says"), [("1.7", "it must be 0 to 1"), ("", "expected a number"), ("nan", "a number")])
def test_an_invalid_probability_is_refused_in_one_line(tmp_path, monkeypatch, capfd, cell, says):
    monkeypatch.chdir(tmp_path)
    tables.PREDICTIONS.write(tmp_path / "good.csv", predictions(0.6, 1))
    text = pd.read_csv("good.csv", dtype=str)
    text.loc[3, "y_prob"] = cell
    text.to_csv("bad.csv", index=False)
    assert run("compare_predictions", "--predictions", "bad.csv", "good.csv") == 2
    said = capfd.readouterr().err
    assert "bad.csv: column 'y_prob'" in said and says in said and "row 5" in said and len(said.splitlines()) == 1


def test_the_command_writes_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, frame in (("one.csv", predictions(0.6, 1)), ("other.csv", predictions(1.4, 2))):
        tables.PREDICTIONS.write(tmp_path / name, frame)
    assert run("compare_predictions", "--predictions", "one.csv", "other.csv", "--resamples", 50) == 0
    assert "300 ears of 150 patients" in capsys.readouterr().out
    table = tables.COMPARISON.read(tmp_path / "artifacts/comparison/comparison.csv").set_index("metric")
    assert table.difference["auroc"] > 0 and (tmp_path / "artifacts/comparison/comparison.png").stat().st_size > 5000

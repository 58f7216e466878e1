"""Two networks on the same ears: differences equal those of the measures, with intervals that have their stated level."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run

from medical_fenlei import settings, tables
from medical_fenlei.config import EAR_ROUTE
from medical_fenlei.errors import UserError
from medical_fenlei.evaluation import comparison_plot
from medical_fenlei.evaluation.compare import compare, p_value
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import differences_of, intervals_of
from medical_fenlei.metrics.support import FEWEST
from medical_fenlei.pages.html import measure_name
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
    for frame, column in ((one, "first"), (other, "second")):
        for name, i in intervals_of(frame, TASK, n_resamples=10).values.items():
            assert table[column][name] == pytest.approx(i.estimate), name
    np.testing.assert_allclose(table.second - table.first, table.difference, atol=1e-12)
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
    assert run("compare_predictions", "--predictions", "one.csv", "other.csv", "--resamples", 50,
               "--out-dir", "artifacts/comparison") == 0
    assert "300 ears of 150 patients" in capsys.readouterr().out
    table = tables.COMPARISON.read(tmp_path / "artifacts/comparison/comparison.csv").set_index("metric")
    assert table.difference["auroc"] > 0 and (tmp_path / "artifacts/comparison/comparison.png").stat().st_size > 5000


def evaluated(folder, frame, *, calibrated, point, evaluation="one"):
    """Write a run's predictions with their metrics, as eval_ear2d does; return the predictions."""
    calibration = {"temperature": 1.0, "point": point, "points": {"half": 0.5, "youden": 0.4}, "ears": 20, "patients": 10}
    write_json(folder / "config.json", {"settings": settings.to_json(EAR_ROUTE)})
    write_json(folder / "reports/metrics_val.json", {"evaluation": "one", "checkpoint": "best.pt", "set": "val",
                                                     "calibrated": calibrated, "calibration": calibration, "task": TASK.name,
                                                     "epoch": 1, "ears": len(frame), "patients": 150, "per_class": {},
                                                     "metrics": {}, "operating_points": {}, "warnings": [], "data": {}})
    tables.PREDICTIONS.write(folder / "reports/predictions_val.csv", frame.assign(evaluation=evaluation))
    return folder / "reports/predictions_val.csv"


UNLIKE = [
    ((False, "half"), (True, "youden"), "python scripts/calibrate_ear2d.py --checkpoint {one} && "
     "python scripts/eval_ear2d.py --checkpoint {one} --split val --point youden; then compare again"),
    ((True, "youden"), (False, "half"), "python scripts/calibrate_ear2d.py --checkpoint {other} && "
     "python scripts/eval_ear2d.py --checkpoint {other} --split val --point youden; then compare again"),
    ((True, "youden"), (True, "half"), "calibrated and decided at half"),
]


@pytest.mark.parametrize(("first", "second", "says"), UNLIKE)
def test_only_like_is_compared_with_like_and_the_refusal_has_the_command(tmp_path, monkeypatch, capfd, first, second, says):
    monkeypatch.chdir(tmp_path)
    runs = {name: (tmp_path / name, *state) for name, state in (("one", first), ("other", second))}
    files = [evaluated(folder, predictions(1, 1), calibrated=calibrated, point=point)
             for folder, calibrated, point in runs.values()]
    assert run("compare_predictions", "--predictions", *files) == 2
    said = capfd.readouterr().err
    checkpoints = {name: folder / "checkpoints/best.pt" for name, (folder, *_) in runs.items()}
    assert says.format(**checkpoints) in said and len(said.splitlines()) == 1
    assert not (tmp_path / "artifacts").exists()


def test_a_network_with_a_calibration_only_has_to_be_evaluated_with_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    files = [evaluated(tmp_path / name, predictions(1, 1), calibrated=own, point="half")
             for name, own in (("one", False), ("other", True))]
    (tmp_path / "one/checkpoints").mkdir()
    (tmp_path / "one/checkpoints/best.calibration.json").touch()
    assert run("compare_predictions", "--predictions", *files) == 2
    assert f": python scripts/eval_ear2d.py --checkpoint {tmp_path}/one/checkpoints/best.pt" in capfd.readouterr().err


def test_predictions_of_another_evaluation_than_their_metrics_are_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    files = [evaluated(tmp_path / name, predictions(1, 1), calibrated=True, point="half", evaluation=own)
             for name, own in (("one", "one"), ("other", "two"))]
    assert run("compare_predictions", "--predictions", *files) == 2
    assert "other/reports/metrics_val.json: missing, or of another evaluation" in capfd.readouterr().err


def test_tables_without_an_evaluation_are_compared_with_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tables.PREDICTIONS.write(tmp_path / "old.csv", predictions(0.6, 1))
    known = evaluated(tmp_path / "run", predictions(1, 2), calibrated=True, point="half")
    assert run("compare_predictions", "--predictions", "old.csv", known, "--resamples", 50) == 0
    assert "no evaluation id in old.csv: calibration and operating point may differ" in capfd.readouterr().err


def few_positives(seed, patients):
    """Predictions in which so many patients have a positive ear."""
    frame = predictions(1.0, seed)
    code = np.where(frame.index < 2 * patients, 1, 5)
    return frame.assign(label_code=code, y_true=(code == 1).astype(int))


@pytest.mark.parametrize(("patients", "tested"), [(FEWEST - 1, False), (FEWEST, True)])
def test_a_measure_on_too_few_patients_is_neither_tested_nor_drawn_but_named(tmp_path, monkeypatch, patients, tested):
    one, other = few_positives(1, patients), few_positives(2, patients)
    table = compare(one, other, TASK, n_resamples=100).table.set_index("metric")
    resting = ["auroc", "auprc", "sensitivity", "f1", "balanced_accuracy", "calibration_slope", "calibration_intercept"]
    assert (table.support[resting] == patients).all() and (table.p[resting].notna() == tested).all()
    assert table.note[resting].str.contains(f"not tested: it rests on {patients} patients").all() == (not tested)
    assert table.p[["specificity", "accuracy", "brier"]].notna().all()
    at_95 = ["sensitivity_at_95_specificity", "specificity_at_95_sensitivity"]
    assert table.p[at_95].isna().all() and table.note[at_95].str.contains("at least 40").all()
    figures = []
    monkeypatch.setattr(comparison_plot, "save", lambda figure, path: figures.append(figure))
    comparison_plot.plot_differences(tmp_path / "c.png", table.reset_index(), title="t")
    drawn = {text.get_text() for axes in figures[0].axes for text in axes.get_yticklabels()}
    named = {*" ".join(figures[0].get_suptitle().split()).removeprefix("t undefined, or on too few patients: ").split(", ")}
    assert named == {measure_name(name) for name in (at_95 if tested else [*resting, *at_95])}
    assert drawn == {measure_name(name) for name in table.index} - named


def drawn(monkeypatch, tmp_path, table, title):
    figures = []
    monkeypatch.setattr(comparison_plot, "save", lambda figure, path: figures.append(figure))
    comparison_plot.plot_differences(tmp_path / "c.png", table, title=title)
    figures[0].draw_without_rendering()
    return figures[0]


def test_the_plot_tells_both_values_and_no_title_however_long_is_cut(tmp_path, monkeypatch):
    table = compare(predictions(0.6, 1), predictions(1.4, 2), TASK, n_resamples=50).table
    figure = drawn(monkeypatch, tmp_path, table, "first: " + "long_name_" * 30 + "\nsecond: b")
    width = figure.get_figwidth() * figure.dpi
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= width and len(figure.get_suptitle().splitlines()) >= 4
    row = table[table.metric == "auroc"].iloc[0]
    words = [label for axes in figure.axes for label in axes.child_axes[0].get_yticklabels()]
    assert words[0].get_text().startswith(f"{row['first']:.3f} → {row.second:.3f}: {row.difference:+.3f} ")
    assert all(label.get_window_extent().x1 <= width for label in words)
    boxes = [label.get_window_extent() for label in words]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_each_class_has_a_panel_of_its_own(tmp_path, monkeypatch):
    table = compare(predictions(0.6, 1), predictions(1.4, 2), TASK, n_resamples=50).table
    table = table[table.metric.isin(["auroc", "auprc", "f1"])]
    classes = [table.assign(metric=table.metric + f"_{code}", support=99) for code in (1, 2, 4, 6)]
    figure = drawn(monkeypatch, tmp_path, pd.concat([table, *classes]), "t")
    assert [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes] == [
        ["AUROC", "AUPRC", "F1"], *([f"{name} {code}" for name in ("AUROC", "AUPRC", "F1")] for code in (1, 2, 4, 6))]


def test_a_slope_without_bounds_does_not_set_the_axis_of_the_other_measures(tmp_path, monkeypatch):
    table = compare(predictions(0.6, 1), predictions(1.4, 2), TASK, n_resamples=50).table
    table.loc[table.metric == "calibration_slope", ["difference", "low", "high"]] = -783.0, -900.0, -600.0
    figures = []
    monkeypatch.setattr(comparison_plot, "save", lambda figure, path: figures.append(figure))
    comparison_plot.plot_differences(tmp_path / "c.png", table, title="t")
    first, *others = figures[0].axes
    assert max(map(abs, first.get_xlim())) <= 1 and len(others) == 2
    assert [axes.get_yticklabels()[0].get_text() for axes in others] == ["calibration slope", "calibration intercept"]


def test_each_pair_of_runs_and_each_set_is_compared_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "study/a"):
        for name in ("val", "far"):
            tables.PREDICTIONS.write(Path(f"outputs/{folder}/reports/predictions_{name}.csv"), predictions(0.6, len(folder)))
    for one, other, name in (("a", "b", "val"), ("a", "b", "far"), ("a", "study/a", "val")):
        files = [f"outputs/{folder}/reports/predictions_{name}.csv" for folder in (one, other)]
        assert run("compare_predictions", "--predictions", *files, "--resamples", 10) == 0
    assert {path.parent.name for path in Path("artifacts/comparison").rglob("*.csv")} == {
        "a_vs_b_val", "a_vs_b_far", "outputs_a_vs_study_a_val"}


def test_a_difference_without_an_interval_or_on_few_patients_is_neither_blue_nor_significant(tmp_path, monkeypatch):
    """Sensitivity and specificity turn round in every resample; AUROC and F1 rest on few patients, accuracy on all."""
    one = few_positives(1, FEWEST + 5).assign(y_pred=1, y_prob=lambda ears: 0.7 * ears.y_prob + 0.3 * ears.y_true)
    table = compare(one, one.assign(y_pred=0, y_prob=1 - one.y_prob), TASK, n_resamples=50).table
    found = table.set_index("metric")
    constant, doubted = ["sensitivity", "specificity"], ["auroc", "f1"]
    assert found.loc[constant, ["low", "high", "p"]].isna().all(axis=None)
    assert found.note[constant].str.contains("no interval").all() and found.note[doubted].str.contains("unreliable").all()
    assert (found.p[[*doubted, "accuracy"]] < 0.001).all()
    figure = drawn(monkeypatch, tmp_path, table, "t")
    axes = figure.axes[0]
    colours = {axes.get_yticklabels()[int(y)].get_text(): (line.get_color(), line.get_markerfacecolor())
               for line in axes.lines if line.get_marker() == "s" for y in line.get_ydata()}
    words = {label.get_text(): text.get_text()
             for label, text in zip(axes.get_yticklabels(), axes.child_axes[0].get_yticklabels(), strict=True)}
    for name in constant:
        assert colours[name] == (comparison_plot.GREY, "white") and "(no interval)" in words[name]
    for name in map(measure_name, doubted):
        assert colours[name] == (comparison_plot.GREY,) * 2 and words[name].endswith("), unreliable")
    assert colours["accuracy"] == (comparison_plot.BLUE,) * 2 and words["accuracy"].endswith("p < 0.001")


def test_a_small_p_value_is_not_printed_as_0(tmp_path, monkeypatch, capsys):
    assert [p_value(p) for p in (float("nan"), 1e-20, 0.0001, 0.04321)] == ["–", "< 0.0001", "0.0001", "0.0432"]
    monkeypatch.chdir(tmp_path)
    for name, skill, seed in (("a.csv", 0.3, 1), ("b.csv", 2.0, 2)):
        tables.PREDICTIONS.write(tmp_path / name, predictions(skill, seed))
    assert run("compare_predictions", "--predictions", "a.csv", "b.csv", "--resamples", 50) == 0
    told = capsys.readouterr().out
    assert "< 0.0001" in told and " 0.0000 " not in told and "nan" not in told.split("auprc")[0].lower()

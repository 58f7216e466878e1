"""Figures of subgroups are those of their own ears, and every grouping has each ear once."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medical_fenlei import tables
from medical_fenlei.evaluation import plots as evaluation_plots
from medical_fenlei.evaluation.subgroups import FEWEST, subgroups_of
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.pages import plots
from medical_fenlei.tasks import find_task

TASK = find_task("normal_vs_abnormal")


@pytest.fixture
def study():
    """160 ears of 80 exams, with predictions that are better for one maker; and their manifest."""
    rng = np.random.default_rng(0)
    exam, side = np.arange(80).repeat(2).astype(str), np.tile(["left", "right"], 80)
    code = rng.choice([1, 2, 5, 5], 160)
    maker = np.where(np.arange(80) < 40, "SIEMENS", "GE MEDICAL SYSTEMS").repeat(2)
    kernel = np.array(["A"] * 60 + ["B"] * 12 + [f"rare{n}" for n in range(8)]).repeat(2)
    manifest = pd.DataFrame({
        "exam_id": exam, "side": side, "date": "2020-01-01", "label_date": "", "date_match": rng.random(80).repeat(2) < 0.6,
        "series_relpath": "s", "n_instances": 9, "label_code": code, "patient_key": exam, "patient_key_source": "patient_id",
        "manufacturer": maker, "model": "m", "kernel": kernel, "transfer_syntax": "", "rows": 512, "columns": 512,
        "pixel_spacing_mm": 0.4, "slice_thickness_mm": np.where(np.arange(80) < 30, 0.6, 1.0).repeat(2),
        "slice_increment_mm": 0.6, "age_years": np.where(np.arange(80) < 20, np.nan, rng.integers(5, 90, 80)).repeat(2),
        "sex": rng.choice(["F", "M"], 80).repeat(2), "kvp": 120.0, "study_key": ""})
    manifest = tables.MANIFEST.frame(manifest.join(tables.task_columns(manifest.label_code.astype("int8"))))
    y = (code != 5).astype(int)
    logit = np.where(maker == "SIEMENS", 3.0, 0.5) * (2 * y - 1) + rng.normal(size=160)
    score = 1 / (1 + np.exp(-logit))
    predictions = tables.PREDICTIONS.frame(pd.DataFrame({
        "exam_id": exam, "side": side, "patient_key": exam, "label_code": code, "y_true": y, "y_prob": score,
        "y_pred": (score >= 0.5).astype(int), "top_slices": "", "top_slice_weights": ""}))
    return predictions.sample(frac=1, random_state=0).reset_index(drop=True), manifest


def test_each_subgroup_has_the_figures_of_its_ears(study):
    predictions, manifest = study
    found = subgroups_of(predictions, manifest, TASK, n_resamples=50)
    both = predictions.merge(manifest[["exam_id", "side", "manufacturer"]], on=["exam_id", "side"])
    areas = found[(found.by == "maker") & (found.metric == "auroc")].set_index("value")
    for value, name in (("Siemens", "SIEMENS"), ("GE", "GE MEDICAL SYSTEMS")):
        own = both[both.manufacturer == name]
        assert areas.estimate[value] == pytest.approx(roc_auc_score(own.y_true, own.y_prob))
        assert (areas.ears[value], areas.patients[value], areas.positive[value]) == (80, 40, own.y_true.sum())
    assert areas.estimate["Siemens"] > 0.95 > areas.estimate["GE"]
    assert found.iloc[0]["by"] == "all" and found.ears.iloc[0] == 160


def test_every_grouping_has_each_ear_once_and_merges_small_groups(study):
    found = subgroups_of(*study, TASK, n_resamples=20)
    counts = found[found.metric == "auroc"].groupby("by").ears.sum()
    assert (counts == 160).all()
    assert set(counts.index) == {"all", "ear", "maker", "kernel", "slice thickness", "age", "sex", "dates"}
    kernels = found[(found.by == "kernel") & (found.metric == "auroc")].set_index("value").ears
    assert kernels.to_dict() == {"A": 120, "B": 24, "fewer than 10 ears: rare0, rare1, rare2 and 5 more": 16}
    assert (kernels >= FEWEST).all()
    assert "unknown" in set(found[found.by == "age"].value)


def test_a_grouping_with_one_value_is_left_out_and_few_ears_cause_a_note(study):
    predictions, manifest = study
    alike = tables.MANIFEST.frame(manifest.assign(sex="F", manufacturer="SIEMENS"))
    found = subgroups_of(predictions, alike, TASK, n_resamples=20)
    assert not {"sex", "maker"} & set(found["by"])
    assert (found[found.patients < 50].note != "").all()


def test_a_subgroup_of_one_class_has_no_auroc_and_a_reason(study):
    predictions, manifest = study
    sex = np.where(manifest.label_code == 5, "F", "M")
    found = subgroups_of(predictions, tables.MANIFEST.frame(manifest.assign(sex=sex)), TASK, n_resamples=20)
    rows = found[(found.by == "sex") & (found.metric == "auroc")]
    assert rows.estimate.isna().all() and rows.note.str.contains("undefined").all()


def test_a_small_group_is_named_and_never_called_other(study):
    """Four men among women are the only ones merged; of eight frequent kernels the last two are not called few."""
    predictions, manifest = study
    kernel = np.array([f"K{n % 8}" for n in range(80)]).repeat(2)
    ears = manifest.assign(sex=np.where(np.arange(160) < 4, "M", "F"), kernel=kernel)
    found = subgroups_of(predictions, tables.MANIFEST.frame(ears), TASK, n_resamples=20)
    values = found[found.metric == "auroc"].groupby("by", sort=False).value.apply(list)
    assert values["sex"] == ["F", "fewer than 10 ears: M"]
    assert values["kernel"] == [*(f"K{n}" for n in range(6)), "less frequent: K6, K7"]


def test_a_panel_without_a_figure_has_the_whole_axis(study, tmp_path, monkeypatch):
    found = subgroups_of(*study, TASK, n_resamples=20)
    few = found.metric == "auroc"
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path, **more: figures.append(figure))
    plots.plot_forest(tmp_path / "f.png", found.assign(support=found.support.where(~few, 1)))
    low, high = zip(*(axes.get_xlim() for axes in figures[0].axes), strict=True)
    assert low[0] <= 0 and min(high) > 1


@pytest.mark.parametrize("ears", [12, 160])
def test_every_panel_of_a_set_that_is_too_small_says_why_it_is_empty(study, tmp_path, monkeypatch, ears):
    predictions = study[0].head(ears)
    result = SimpleNamespace(task=TASK, predictions=predictions, intervals=intervals_of(predictions, TASK, n_resamples=20),
                             operating_points={}, calibration=SimpleNamespace(point="half"), id="e")
    figures = []
    monkeypatch.setattr(evaluation_plots, "save", lambda figure, path, **more: figures.append(figure))
    evaluation_plots.plot_evaluation(tmp_path / "c.png", result)
    titles = [axes.get_title() for axes in figures[0].axes[:4]]
    assert all(("left out:\nit rests on" in title) == (ears == 12) for title in titles), titles

"""Audits detect planted faults in predictions, and report none where there is none."""
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medical_fenlei import tables
from medical_fenlei.audits.audit import binary_view
from medical_fenlei.audits.chance import audit_chance
from medical_fenlei.audits.doubtful_labels import (
    audit_dates,
    label_probabilities,
    out_of_sample_loss,
    rank_suspects,
    summarize_dynamics,
)
from medical_fenlei.audits.exchanged_sides import audit_sides
from medical_fenlei.audits.robustness import PairedScores
from medical_fenlei.audits.shortcuts import audit_metadata, audit_other_ear
from medical_fenlei.audits.verdicts import THRESHOLDS
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.tasks import find_task

TASK, SIX = find_task("normal_vs_abnormal"), find_task("six_class")
EXAMS = 300


def drawn(seed=0, *, skill=2.5, shared=0.0, exams=EXAMS):
    """`binary_view` of exams with two ears each, a third of them one-sided; and the true labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, exams).repeat(2).reshape(-1, 2)
    y[rng.random(exams) < 0.35, 1] ^= 1
    logit = skill * (y - 0.5) + shared * (y[:, ::-1] - 0.5) + rng.normal(size=y.shape)
    frame = pd.DataFrame({"exam_id": np.arange(exams).astype(str).repeat(2), "side": ["left", "right"] * exams})
    return frame.assign(patient_key="p" + frame.exam_id, label_code=np.where(y.ravel() == 1, 1, 5), y=y.ravel(),
                        score=1 / (1 + np.exp(-logit.ravel())))


def crossed(ears, share):
    """The labels exchanged between the sides of a share of the exams."""
    changed = ears.copy()
    mine = changed.exam_id.astype(int) < share * EXAMS
    for name in ("y", "label_code"):
        both = changed[name].to_numpy().reshape(-1, 2)[:, ::-1].ravel()
        changed[name] = np.where(mine, both, changed[name])
    return changed


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "ok"), (0.5, "wrong"), (1.0, "wrong")])
def test_exchanged_sides_in_half_or_all_exams_are_detected_with_their_share(share, verdict):
    found, listed = audit_sides(crossed(drawn(), share), n_resamples=300)
    assert found.verdict == verdict and found.low <= share <= found.high
    assert (listed.lead.diff().dropna() >= 0).all()
    one_sided = crossed(drawn(), share).groupby("exam_id").y.nunique() == 2
    assert set(listed.exam_id) == set(one_sided.index[one_sided])
    if share == 0.5:
        first = listed.head(15).exam_id.astype(int)
        assert (first < share * EXAMS).mean() > 0.85                                 # what to read again stands on top


def as_in_a_clinic(seed, skill, share=0.0):
    """Hardly any exam with two normal ears: 300 one-sided exams, 100 with two diseased ears, 4 with two normal ones."""
    rng, rows = np.random.default_rng(seed), []
    for exam in range(404):
        y = np.array([1, 0] if exam < 300 else [1, 1] if exam < 400 else [0, 0])[:: rng.choice([-1, 1])]
        logit = skill * (y - 0.5) + rng.normal(size=2)
        label = y[::-1] if exam < 300 * share else y
        rows += [(f"{exam}", side, f"{exam}", 1 if told else 5, told, 1 / (1 + np.exp(-value)))
                 for side, told, value in zip(("left", "right"), label, logit, strict=True)]
    return pd.DataFrame(rows, columns=["exam_id", "side", "patient_key", "label_code", "y", "score"])


@pytest.mark.parametrize(("skill", "share", "verdicts"), [
    (1.3, 0.0, {"look", "ok"}), (1.9, 0.0, {"ok"}), (3.0, 0.0, {"ok"}),          # AUROC 0.82, 0.91, 0.98
    (3.0, 0.5, {"wrong"}), (3.0, 1.0, {"wrong"}), (1.3, 1.0, {"wrong"}), (1.3, 0.5, {"look"})])
def test_without_exams_of_two_normal_ears_a_lack_of_skill_is_not_reported_as_a_fault(skill, share, verdicts):
    found = [audit_sides(as_in_a_clinic(seed, skill, share), n_resamples=100)[0] for seed in range(3)]
    assert {one.verdict for one in found} <= verdicts
    if skill == 3:
        assert all(one.low - 0.02 <= share <= one.high + 0.02 for one in found)


def test_ears_of_one_side_only_leave_the_question_open():
    ears = drawn(exams=30)
    assert audit_sides(ears[ears.side == "right"], n_resamples=10)[0].verdict == "undecided"
    assert np.isnan(out_of_sample_loss(np.eye(8), np.arange(8) // 2, np.arange(8))).all()


def test_a_network_without_skill_is_not_taken_for_exchanged_sides():
    found, _ = audit_sides(drawn(1, skill=0.3), n_resamples=300)
    assert found.verdict != "wrong"


def test_too_few_one_sided_exams_leave_the_question_open():
    ears = drawn(exams=12)
    both = ears.y.to_numpy().reshape(-1, 2)[:, :1].repeat(2, axis=1).ravel()
    found, listed = audit_sides(ears.assign(y=both), n_resamples=50)
    assert found.verdict == "undecided" and np.isnan(found.estimate) and listed.empty


def manifest_of(ears, kernel):
    frame = ears[["exam_id", "side", "patient_key", "label_code"]].assign(
        date="2020-01-01", label_date="2020-01-01", date_match=True, series_relpath=ears.exam_id + "/s", n_instances=9,
        patient_key_source="patient_id", manufacturer="SIEMENS", model="m", kernel=kernel, transfer_syntax="", rows=64,
        columns=64, pixel_spacing_mm=0.5, slice_thickness_mm=1.0, slice_increment_mm=1.0, age_years=40, sex="F", kvp=120.0,
        study_key="")
    return tables.MANIFEST.frame(frame.join(tables.task_columns(frame.label_code)))


@pytest.mark.parametrize(("told", "verdict"), [(0.0, "ok"), (0.95, "wrong")])
def test_a_kernel_that_reveals_the_label_is_detected_and_named(told, verdict):
    train, val = drawn(0), drawn(1).assign(exam_id=lambda f: "v" + f.exam_id, patient_key=lambda f: "v" + f.patient_key)
    rng, both = np.random.default_rng(2), pd.concat([train, val], ignore_index=True)
    kernel = np.where(np.where(rng.random(len(both)) < told, both.y, rng.integers(0, 2, len(both))) == 1, "H70", "B30")
    manifest = manifest_of(both, kernel)
    scan, people = audit_metadata(val, manifest, TASK, manifest[manifest.exam_id.isin(train.exam_id)], n_resamples=300)
    assert scan.verdict == verdict and people.verdict == "ok" and people.estimate == 0.5
    if told:
        assert "most by kernel" in scan.explanation
        assert scan.estimate == pytest.approx(roc_auc_score(val.y, kernel[len(train):] == "H70"))


def test_a_score_that_follows_the_other_ear_needs_a_look_and_one_that_does_not_passes():
    assert audit_other_ear(drawn(), n_resamples=300).verdict == "ok"
    found = audit_other_ear(drawn(shared=2.5), n_resamples=300)
    assert found.verdict == "look" and found.low > 0.5


def test_shuffled_labels_give_chance_and_a_network_no_better_than_that_is_reported():
    ears = drawn()
    found = audit_chance(ears, permutations=200)
    assert found.verdict == "ok" and found.estimate == pytest.approx(roc_auc_score(ears.y, ears.score))
    assert found.verdict == THRESHOLDS["chance"].verdict(found.low, found.high)
    assert found.low < found.estimate < found.high <= 1
    told = re.search(r"shuffled labels give (\S+) \((\S+) to (\S+)\)", found.explanation)
    shuffled, low, high = map(float, told.groups())
    assert low < 0.5 < high and shuffled == pytest.approx(0.5, abs=0.02)
    assert high - low == pytest.approx(found.high - found.low, abs=0.002) or found.high == 1
    assert audit_chance(drawn(3, skill=0.0), permutations=200).verdict == "look"


def test_shuffling_keeps_the_ears_of_a_patient_together():
    """Both ears of each patient agree in label and score: then chance spreads as that of so many patients, not ears."""
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, 40).repeat(2), rng.random(40).repeat(2)
    ears = drawn(exams=40).assign(y=y, score=score)
    by_patient, by_ear = audit_chance(ears), audit_chance(ears.assign(patient_key=np.arange(80)))
    assert by_patient.high - by_patient.low == pytest.approx(np.sqrt(2) * (by_ear.high - by_ear.low), rel=0.15)


def test_of_six_classes_normal_against_the_others_is_audited():
    ears = drawn(exams=20)
    each = np.full((40, 6), 0.02)
    each[:, 4] = 0.9
    frame = ears.assign(y_true=ears.label_code - 1, y_pred=4, y_prob=0.9, **{f"prob_{c}": each[:, c - 1] for c in range(1, 7)})
    found = binary_view(frame, SIX)
    assert (found.y == ears.y).all() and np.allclose(found.score, 0.1)


def answered(wrong, epochs=8, ears=200, seed=0):
    """Training ears whose network learns the true label; those of `wrong` are labelled otherwise."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, ears)
    label = np.where(np.isin(np.arange(ears), wrong), 1 - truth, truth)
    skill = np.linspace(0, 3, epochs)[:, None]
    logits = skill * (2 * truth - 1) + rng.normal(size=(epochs, ears))
    frame = pd.DataFrame({"exam_id": [f"e{n}" for n in range(ears)], "side": "left", "label_code": np.where(label == 1, 1, 5)})
    return tables.TRAINING_EARS.frame(frame), logits[:, :, None].astype(np.float32)


def test_wrong_labels_are_ranked_first_for_review():
    wrong = np.random.default_rng(1).choice(200, 20, replace=False)
    ears, answers = answered(wrong)
    manifest = manifest_of(ears.assign(patient_key=ears.exam_id), "k")
    table = rank_suspects({"train": ears.assign(doubt=1.0)}, summarize_dynamics(ears, answers, TASK), manifest)
    assert list(table["rank"]) == list(range(1, 201))
    top = set(table.exam_id[:30])
    assert sum(f"e{n}" in top for n in wrong) >= 18
    right = table[~table.exam_id.isin([f"e{n}" for n in wrong])]
    assert right.agreement.mean() > 0.8 > table[table.exam_id.isin([f"e{n}" for n in wrong])].agreement.mean()


def test_ears_that_an_epoch_did_not_show_are_judged_by_the_other_epochs():
    ears, answers = answered([0])
    answers[1:, 5] = np.nan
    answers[:, 6] = np.nan
    found = summarize_dynamics(ears, answers, TASK)
    target = TASK.targets(ears.label_code.to_numpy())
    given = label_probabilities(answers, target, TASK)
    assert found.epochs[5] == 1 and found.nll[5] == pytest.approx(-np.log(given[0, 5]))
    assert found.epochs[6] == 0 and np.isnan(found.nll[6])
    listed = rank_suspects({"train": ears.assign(doubt=1.0)}, found, manifest_of(ears.assign(patient_key=ears.exam_id), "k"))
    assert listed.exam_id.iloc[-1] == "e6"


def test_a_label_that_embeddings_of_other_patients_contradict_is_doubted():
    """Two clusters; some ears are labelled as the other one, and the twin ear of each as wrongly."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60).repeat(2)
    wrong = np.isin(np.arange(60), rng.choice(60, 6, replace=False)).repeat(2)
    embedding = rng.normal(size=(120, 16)) + 3 * (2 * truth[:, None] - 1) * (np.arange(16) < 4)
    doubt = out_of_sample_loss(embedding, np.where(wrong, 1 - truth, truth), np.arange(60).repeat(2))
    assert set(np.argsort(-doubt)[:12]) == set(np.flatnonzero(wrong))
    assert (doubt[wrong] > np.log(2)).all() and (doubt[~wrong] < np.log(2)).mean() > 0.95


def test_a_label_that_no_other_patient_has_cannot_be_doubted():
    rng, target = np.random.default_rng(0), np.repeat([0, 1, 2], [20, 19, 1])
    doubt = out_of_sample_loss(rng.normal(size=(40, 4)), target, np.arange(40))
    assert np.isnan(doubt[39]) and np.isfinite(doubt[:39]).all()
    assert np.isnan(out_of_sample_loss(rng.normal(size=(4, 2)), np.array([0, 1, 0, 1]), np.arange(4))).all()


def test_sets_are_interleaved_by_their_own_ranks():
    rng, ears = np.random.default_rng(0), drawn(exams=125)
    frame = ears.assign(doubt=rng.random(250))[["exam_id", "side", "label_code", "doubt"]]
    sets = {"train": frame[:200].reset_index(drop=True), "val": frame[200:].assign(doubt=lambda f: f.doubt / 100)}
    table = rank_suspects(sets, None, manifest_of(ears, "k"))
    assert table.set[:50].value_counts()["val"] == 10                                # a fifth of the ears, a fifth of any part
    assert all(own.doubt.is_monotonic_decreasing for _, own in table.groupby("set"))


@pytest.mark.parametrize(("share", "verdict"), [(0.6, "look"), (0.0, "ok")])
def test_doubtful_labels_of_exams_whose_dates_differ_are_reported(share, verdict):
    rng, number = np.random.default_rng(0), 200
    differs = rng.random(number) < 0.3
    doubt = rng.random(number) + share * differs
    frame = pd.DataFrame({"exam_id": [f"e{n}" for n in range(number)], "side": "left", "label_code": 1, "set": "val",
                          "doubt": doubt, "nll": 1.0, "agreement": 1.0, "epochs": pd.NA, "first_agreed": pd.NA,
                          "date_match": ~differs})
    frame = frame.sort_values("doubt", ascending=False).assign(rank=np.arange(1, number + 1))
    found = audit_dates(tables.SUSPECTS.frame(frame), pd.Series({e: e for e in frame.exam_id}), n_resamples=300)
    assert found.verdict == verdict


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_auroc_of_the_unchanged_scans_has_the_interval_of_the_evaluation_whatever_its_temperature(temperature):
    ears = drawn(skill=1.0, exams=60)
    score = 1 / (1 + np.exp(-np.log(ears.score / (1 - ears.score)) / temperature))
    predictions = ears.assign(y_true=ears.y, y_prob=score, y_pred=(score >= 0.3).astype(int)).sample(frac=1, random_state=0)
    evaluated = intervals_of(predictions, TASK, n_resamples=200).values["auroc"]
    audited = PairedScores.from_ears(ears, n_resamples=200)
    _, changed = audited.compare("changed", ears.score.to_numpy() ** 2)
    assert audited.plain_auroc == evaluated == changed

"""Features other than the anatomy hardly predict the diagnosis in the phantom."""
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medical_fenlei.phantom.hospital import draw_ears, sample_acquisition
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.vocabulary import NORMAL, SIDES

SPEC = HospitalSpec(num_exams=320, seed=5)
SCAN = ["model", "kernel", "syntax", "position", "form", "pixel_mm", "increment_mm", "thickness_mm", "kvp", "day"]


@pytest.fixture(scope="module")
def ears():
    rows = []
    for exam in sample_population(SPEC.num_exams, SPEC.seed):
        scan = sample_acquisition(exam, SPEC)[0].scan
        facts = [scan.model, "/".join(scan.kernel), scan.transfer_syntax, scan.patient_position, str(scan.pixel_format),
                 scan.pixel_mm, scan.increment_mm, scan.thickness_mm, scan.kvp, exam.date.toordinal()]
        drawn = draw_ears(exam, SPEC, num_slices=8, image_size=48, crop_mm=64)
        for side in SIDES:
            rows.append({"patient": exam.patient.name, "y": exam.codes[side] != NORMAL, "side": str(side),
                         "mean": drawn[side].mean(), "sd": drawn[side].std(), **dict(zip(SCAN, facts, strict=True))})
    return pd.DataFrame(rows)


def auroc(ears, features):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    score = cross_val_predict(model, features.astype(float), ears.y, groups=ears.patient, cv=GroupKFold(5),
                              method="predict_proba")[:, 1]
    return roc_auc_score(ears.y, score)


def test_mean_and_spread_of_hu_alone_do_not_give_the_diagnosis(ears):
    assert auroc(ears, ears[["mean", "sd"]]) < 0.75


def test_scanner_and_date_do_not_give_the_diagnosis(ears):
    assert ears.model.nunique() > 4 and ears.kernel.nunique() > 5
    assert auroc(ears, pd.get_dummies(ears[SCAN])) < 0.60


def test_the_side_does_not_give_the_diagnosis(ears):
    assert abs(roc_auc_score(ears.y, ears.side == "left") - 0.5) < 0.05


def test_a_feature_that_leaks_the_label_is_detected(ears):
    noisy = ears.y ^ (np.random.default_rng(0).random(len(ears)) < 0.2)
    assert auroc(ears, noisy.to_frame()) > 0.75

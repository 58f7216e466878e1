"""Patients stay whole, classes stay proportional, smaller amounts lie inside larger ones."""
import numpy as np
import pandas as pd
import pytest

from medical_fenlei.ingest.leakage import shared_patients
from medical_fenlei.ingest.splits import SplitSpec, make_splits
from medical_fenlei.tables import Split

SHARES = [0.34, 0.15, 0.13, 0.02, 0.27, 0.09]


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    codes = rng.choice(np.arange(1, 7), (600, 2), p=SHARES) * (rng.random((600, 2)) > 0.02)
    exam_id = [f"{i:05d}" for i in rng.permutation(600)]
    return pd.DataFrame({"exam_id": exam_id, "left_code": codes[:, 0], "right_code": codes[:, 1]})


@pytest.fixture
def patients(index):
    people = [f"p{i % 520}" for i in range(len(index))]          # 80 patients have two exams
    return dict(zip(index.exam_id, people, strict=True))


def ids(frame):
    return set(frame.exam_id)


def test_smaller_amounts_lie_inside_larger_and_the_other_sets_stay_the_same(index, patients):
    splits = make_splits(index, patients, SplitSpec(test_ratio=0.1))
    assert ids(splits[1]["train"]) < ids(splits[20]["train"]) < ids(splits[100]["train"])
    for name in ("tune", "val", "test"):
        assert ids(splits[1][name]) == ids(splits[20][name]) == ids(splits[100][name])
    whole = [ids(frame) for frame in splits[100].values()]
    assert sum(map(len, whole)) == len(index) and set.union(*whole) == ids(index)


def test_sizes_are_the_shares_of_patients_asked_for(index, patients):
    sets = make_splits(index, patients, SplitSpec())[100]
    people = {name: len({patients[e] for e in frame.exam_id}) for name, frame in sets.items()}
    assert people["val"] == pytest.approx(0.2 * 520, abs=1)
    assert people["tune"] == pytest.approx(0.1 * 0.8 * 520, abs=1)
    train = {patients[e] for e in make_splits(index, patients, SplitSpec())[20]["train"].exam_id}
    assert len(train) == pytest.approx(0.2 * people["train"], abs=1)


def test_no_patient_stands_on_both_sides(index, patients):
    manifest = pd.DataFrame({"exam_id": list(patients), "patient_key": list(patients.values())})
    for pct, sets in make_splits(index, patients, SplitSpec(test_ratio=0.1)).items():
        assert shared_patients(manifest, [Split(f"{pct}pct", sets, by_patient=True)]).empty
    by_exam = make_splits(index, None, SplitSpec())[100]
    assert len(shared_patients(manifest, [Split("100pct", by_exam, by_patient=False)])) > 10


def test_every_class_keeps_its_share(index, patients):
    sets = make_splits(index, patients, SplitSpec())[100]

    def shares(frame):
        codes = frame[["left_code", "right_code"]].to_numpy().ravel()
        return np.bincount(codes[codes > 0], minlength=7)[1:] / (codes > 0).sum()

    assert np.abs(shares(sets["val"]) - shares(sets["train"])).max() < 0.02
    assert (shares(sets["val"])[3] > 0) and (shares(sets["tune"])[3] > 0)      # the rare class too


def test_the_value_of_a_patients_key_and_the_order_of_rows_change_nothing(index, patients):
    renamed = {exam: str(hash(("other", who))) for exam, who in patients.items()}
    shuffled = index.sample(frac=1, random_state=1)
    one, other = make_splits(index, patients, SplitSpec()), make_splits(shuffled, renamed, SplitSpec())
    assert all(one[pct][name].equals(other[pct][name]) for pct in one for name in one[pct])
    assert ids(make_splits(index, patients, SplitSpec(seed=1))[100]["val"]) != ids(one[100]["val"])


@pytest.mark.parametrize("bad", [
    {"val_ratio": 1.0}, {"ratios": (0.0,)}, {"ratios": (0.2, 0.2)}, {"val_ratio": 0.6, "test_ratio": 0.4},
])
def test_ratios_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="ratio"):
        SplitSpec(**bad)

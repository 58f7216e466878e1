"""Splits keep patients together and classes proportional; smaller amounts of data are subsets of larger ones."""
import json

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.split_spec import SplitSpec
from medical_fenlei.ingest.split_statistics import ears_per_code, largest_deviation, sets_with_too_few
from medical_fenlei.ingest.splits import make_splits
from medical_fenlei.leakage.shared import shared_patients
from medical_fenlei.tables import Split
from medical_fenlei.vocabulary import SIDES

SHARES = [0.34, 0.15, 0.13, 0.02, 0.27, 0.09]
SETS = ("train", "tune", "val", "test")


def draw(seed, *, exams=600, patients=520, shares=SHARES):
    """A table of exams, and who they belong to: the last ones to patients who have others."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.arange(1, 7), (exams, 2), p=shares) * (rng.random((exams, 2)) > 0.02)
    exam_id = [f"{i:05d}" for i in rng.permutation(exams)]
    index = pd.DataFrame({"exam_id": exam_id, "left_code": codes[:, 0], "right_code": codes[:, 1]})
    return index, {exam: f"p{i % patients}" for i, exam in enumerate(exam_id)}


def small_tables():
    """Collections of every shape: few patients or many, with one exam or a dozen, and classes that are rare or absent."""
    for seed in range(12):
        rng = np.random.default_rng(1000 + seed)
        exams = int(rng.integers(12, 150))
        shares = rng.dirichlet(np.full(6, 0.5))
        yield draw(seed, exams=exams, patients=int(rng.integers(10, exams + 1)), shares=shares)


@pytest.fixture
def table():
    return draw(0)


def ids(frame):
    return set(frame.exam_id)


def people(frame, patients):
    return {patients[exam] for exam in frame.exam_id}


def exam_ids(folds):
    return [{pct: {name: list(frame.exam_id) for name, frame in sets.items()} for pct, sets in fold.items()} for fold in folds]


def shares(frame):
    ears = np.array(list(ears_per_code(frame).values()))
    return ears / ears.sum()


def test_smaller_amounts_lie_inside_larger_and_the_other_sets_stay_the_same(table):
    for index, patients in (table, *small_tables()):
        for folds in (0, 3):
            for splits in make_splits(index, patients, SplitSpec(test_ratio=0.1, folds=folds)):
                assert list(splits) == [1, 20, 100] and len(splits[1]["train"])
                assert ids(splits[1]["train"]) <= ids(splits[20]["train"]) <= ids(splits[100]["train"])
                for name in ("tune", "val", "test"):
                    assert ids(splits[1][name]) == ids(splits[20][name]) == ids(splits[100][name]) != set()
                whole = [ids(frame) for frame in splits[100].values()]
                assert sum(map(len, whole)) == len(index) and set.union(*whole) == ids(index)


def test_sizes_are_the_shares_of_patients_asked_for(table):
    index, patients = table
    splits, = make_splits(index, patients, SplitSpec())
    number = {name: len(people(frame, patients)) for name, frame in splits[100].items()}
    assert number["val"] == 0.2 * 520 and number["tune"] == pytest.approx(0.1 * 0.8 * 520, abs=1)
    assert len(people(splits[20]["train"], patients)) == pytest.approx(0.2 * number["train"], abs=1)


def test_no_patient_is_in_two_sets(table):
    for index, patients in (table, *small_tables()):
        manifest = pd.DataFrame({"exam_id": list(patients), "patient_key": list(patients.values())})
        for folds in (0, 4):
            for splits in make_splits(index, patients, SplitSpec(test_ratio=0.1, folds=folds)):
                for pct, sets in splits.items():
                    assert shared_patients(manifest, [Split(f"{pct}pct", sets, by_patient=True)]).empty
    index, patients = table
    manifest = pd.DataFrame({"exam_id": list(patients), "patient_key": list(patients.values())})
    by_exam, = make_splits(index, None, SplitSpec())
    assert len(shared_patients(manifest, [Split("100pct", by_exam[100], by_patient=False)])) > 10


def test_every_class_keeps_its_share_within_two_ears_of_the_smallest_set():
    for seed in range(8):
        index, patients = draw(seed)
        splits, = make_splits(index, patients, SplitSpec(seed=seed))
        for pct, sets in splits.items():
            smallest = min(sum(ears_per_code(frame).values()) for frame in sets.values() if len(frame))
            said = largest_deviation(sets)
            assert said["points"] <= 200 / smallest, (seed, pct, said)
        assert ears_per_code(splits[100]["val"])[4] > 0 and ears_per_code(splits[100]["tune"])[4] > 0      # the rare class too


def test_classes_are_far_nearer_to_their_shares_than_by_luck(table):
    index, patients = table
    splits, = make_splits(index, patients, SplitSpec(tune_ratio=0))
    keys, luck = np.unique(list(patients.values())), []
    for seed in range(50):
        chosen = set(np.random.default_rng(seed).permutation(keys)[: len(keys) // 5])
        val = index[index.exam_id.map(patients).isin(chosen)]
        luck.append(100 * np.abs(shares(val) - shares(index[~index.exam_id.isin(val.exam_id)])).max())
    assert largest_deviation(splits[100])["points"] < min(*luck, np.median(luck) / 5)


def test_pairs_of_codes_keep_their_shares_too_so_that_sides_do(table):
    index, patients = table
    splits, = make_splits(index, patients, SplitSpec(tune_ratio=0))
    pairs = (index.left_code * 10 + index.right_code).value_counts()
    for pair, number in pairs.items():
        val = splits[100]["val"]
        assert abs((val.left_code * 10 + val.right_code == pair).sum() - 0.2 * number) < 4, pair


def test_the_largest_deviation_is_that_of_the_worst_class_between_the_two_sets_furthest_apart():
    frames = {
        "train": pd.DataFrame({"left_code": [5] * 6 + [1] * 4, "right_code": [0] * 10}),
        "val": pd.DataFrame({"left_code": [5, 1], "right_code": [5, 1]}),
        "tune": pd.DataFrame({"left_code": [5, 5, 1, 4], "right_code": [5, 5, 1, 0]}),
        "test": pd.DataFrame({"left_code": [], "right_code": []}),
    }
    assert largest_deviation(frames) == {"points": 21.429, "code": 1, "sets": ["val", "tune"]}
    assert largest_deviation({name: frames[name] for name in ("train", "test")}) is None


def test_the_value_of_a_patients_key_and_the_order_of_rows_change_nothing(table):
    for index, patients in (table, *small_tables()):
        renamed = {exam: str(hash(("other", who))) for exam, who in patients.items()}
        shuffled = index.sample(frac=1, random_state=1)
        for spec in (SplitSpec(), SplitSpec(folds=3, test_ratio=0.1)):
            assert exam_ids(make_splits(index, patients, spec)) == exam_ids(make_splits(shuffled, renamed, spec))
    index, patients = table
    other, one = make_splits(index, patients, SplitSpec(seed=1)), make_splits(index, patients, SplitSpec())
    assert ids(other[0][100]["val"]) != ids(one[0][100]["val"])


def test_more_amounts_or_a_larger_tune_set_leave_the_validation_set_as_it_is(table):
    index, patients = table
    one, = make_splits(index, patients, SplitSpec())
    other, = make_splits(index, patients, SplitSpec(ratios=(0.05, 0.5, 1.0), tune_ratio=0.3))
    assert ids(one[100]["val"]) == ids(other[100]["val"])
    more, = make_splits(index, patients, SplitSpec(ratios=(0.5, 1.0)))
    assert ids(one[100]["tune"]) == ids(more[100]["tune"])


def test_over_the_folds_each_patient_validates_once_beside_one_test_set(table):
    for index, patients in (table, *small_tables()):
        for folds, test_ratio in ((2, 0.0), (5, 0.0), (3, 0.2)):
            if len(set(patients.values())) < folds + 4:
                continue
            splits = make_splits(index, patients, SplitSpec(folds=folds, test_ratio=test_ratio))
            vals = [people(fold[100]["val"], patients) for fold in splits]
            test = people(splits[0][100]["test"], patients)
            assert len(splits) == folds and sum(map(len, vals)) + len(test) == len(set(patients.values()))
            assert set.union(test, *vals) == set(patients.values())
            assert max(map(len, vals)) - min(map(len, vals)) <= 1
            assert all(people(fold[100]["test"], patients) == test for fold in splits)


def test_exams_of_an_earlier_split_validate_again_with_all_exams_of_their_patients(table):
    for index, patients in (table, *small_tables()):
        before, = make_splits(index, None, SplitSpec(seed=3))
        val = sorted(ids(before[100]["val"]))[:5]
        spec = SplitSpec(val_from="earlier", test_ratio=0.1)
        by_exam, = make_splits(index, None, spec, val_exams=[*val, "gone"])
        assert sorted(ids(by_exam[100]["val"])) == val
        by_patient, = make_splits(index, patients, spec, val_exams=val)
        owners = {patients[exam] for exam in val}
        assert ids(by_patient[1]["val"]) == {exam for exam, who in patients.items() if who in owners}
        assert set.union(*(ids(by_patient[100][name]) for name in SETS)) == ids(index)


def test_a_rare_class_gets_its_ears_in_every_set_and_amount_where_there_are_enough(table):
    index, patients = table
    for folds in (0, 2):
        spec = SplitSpec(test_ratio=0.1, min_per_class=2, folds=folds, ratios=(0.05, 0.2, 1.0))
        for splits in make_splits(index, patients, spec):
            assert sets_with_too_few(splits, 2) == []
            frames = [frame for sets in splits.values() for frame in sets.values()]
            assert all(ears >= 2 for frame in frames for ears in ears_per_code(frame).values())
    plain, = make_splits(index, patients, SplitSpec(min_per_class=0, ratios=(0.01, 1.0)))
    assert sets_with_too_few(plain, 1) == ["code 4: 0 ears in 1pct train"]


@pytest.mark.parametrize(("there", "names"), [(1, ["train"]), (2, ["train", "val"]), (3, ["train", "val", "test"]), (4, SETS)])
def test_of_a_class_with_too_few_ears_training_has_the_first_then_validation_test_and_tuning(there, names):
    index, patients = draw(5, shares=[0.4, 0.2, 0.1, 0.0, 0.2, 0.1], patients=600)
    rows = np.flatnonzero(index.left_code == 1)[:there]
    index.loc[rows, "left_code"] = 4
    splits, = make_splits(index, patients, SplitSpec(test_ratio=0.2, ratios=(1.0,)))
    assert {name for name, frame in splits[100].items() if ears_per_code(frame)[4]} == set(names)
    lacks = {what.split(" in ")[1].replace("100pct ", "") for what in sets_with_too_few(splits, 1)}
    assert lacks == set(SETS) - set(names)


def test_fewer_patients_than_sets_are_one_line():
    index, patients = draw(0, exams=3, patients=3)
    assert len(make_splits(index, patients, SplitSpec())[0][100]["train"]) == 1
    with pytest.raises(UserError, match="3 patients to divide, fewer than the 4 sets"):
        make_splits(index, patients, SplitSpec(test_ratio=0.1))
    with pytest.raises(UserError, match="0 patients to divide"):
        make_splits(index, patients, SplitSpec(val_from="x"), val_exams=list(index.exam_id))
    index, patients = draw(0, exams=40, patients=40)
    with pytest.raises(UserError, match=r"--test-ratio 0\.5"):
        make_splits(index, patients, SplitSpec(val_from="x", test_ratio=0.5), val_exams=list(index.exam_id[:20]))


@pytest.mark.parametrize("bad", [
    {"val_ratio": 1.0}, {"ratios": (0.0,)}, {"ratios": (0.2, 0.2)}, {"val_ratio": 0.6, "test_ratio": 0.4},
    {"folds": 1}, {"val_from": "x", "folds": 5}, {"min_per_class": -1},
])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).replace("_", "-")):
        SplitSpec(**bad)


@pytest.fixture
def here(tmp_path, monkeypatch, table):
    """A working folder with an index and a manifest."""
    monkeypatch.chdir(tmp_path)
    index, patients = table
    facts = {"date": "2020-01-05", "label_date": "2020-01-05", "date_match": True, "n_instances": 3}
    exams = index.assign(**facts, series_relpath=index.exam_id)
    rows = exams.assign(ambiguous_match=False, exam_relpath=exams.exam_id, series_reason="")
    tables.INDEX.write(tmp_path / "artifacts/dataset_index.csv", tables.INDEX.frame(rows))
    ears = pd.concat([exams.assign(side=side, label_code=exams[f"{side}_code"]) for side in SIDES], ignore_index=True)
    ears["patient_key"] = ears.exam_id.map(patients)
    for column, kind in tables.MANIFEST.columns.items():
        if column not in ears:
            ears[column] = "" if kind == "text" else 0
    tables.MANIFEST.write(tmp_path / "artifacts/manifest_ears.csv", tables.MANIFEST.frame(ears[list(tables.MANIFEST.columns)]))
    return tmp_path


def split(*words):
    return run("make_splits_dual", "--patient-split", *words)


def test_the_script_writes_folds_that_are_splits_folders_and_the_leakage_check_finds_them(here, capsys):
    assert split("--out-dir", "artifacts/splits_dual_cv", "--folds", 3, "--test-ratio", 0.1) == 0
    assert "largest deviation of a class's share: " in capsys.readouterr().out
    root = here / "artifacts/splits_dual_cv"
    for nth in range(3):
        sets = tables.read_split(root / f"fold_{nth}", 20).sets
        assert list(sets) == list(SETS)
        said = json.loads((root / f"fold_{nth}/20pct/stats.json").read_text())
        assert said["settings"]["folds"] == 3 and said["settings"]["val_ratio"] is None
        assert said["largest_deviation"] == largest_deviation(sets) and said["sets"]["val"]["exams"] == len(sets["val"])
    assert [str(s.folder.relative_to(root)) for s in tables.read_splits(root)] == [
        f"fold_{nth}/{pct}pct" for nth in range(3) for pct in (1, 20, 100)]
    assert run("check_patient_leakage") == 0
    assert "splits_dual_cv/fold_2/100pct" in capsys.readouterr().out
    val, train = root / "fold_1/100pct/val.csv", root / "fold_1/100pct/train.csv"
    tables.SPLIT.write(val, pd.concat([tables.SPLIT.read(val), tables.SPLIT.read(train)[:1]]))
    assert run("check_patient_leakage") == 1
    with pytest.raises(UserError, match="there are: fold_0, fold_1, fold_2"):
        tables.read_split(root, 20)


def test_the_script_warns_about_folders_of_an_earlier_call(here, capsys):
    assert split("--out-dir", "s", "--folds", 3) == 0 and "earlier call" not in capsys.readouterr().err
    assert split("--out-dir", "s", "--folds", 2, "--ratios", "0.2,1.0") == 0
    said = capsys.readouterr().err
    assert "s/fold_0/1pct, s/fold_1/1pct, s/fold_2/100pct" in said and "s/fold_1/20pct" not in said


def test_the_script_takes_a_validation_set_from_a_split_or_a_table(here, capsys, table):
    index, _ = table
    assert split("--out-dir", "old") == 0
    old = tables.read_split(here / "old", 100).sets["val"]
    gone, kept = old.exam_id[:4], ids(old[4:])
    everything = tables.INDEX.read(here / "artifacts/dataset_index.csv")
    tables.INDEX.write(here / "new.csv", everything[~everything.exam_id.isin(gone)])
    for source in ("old", "old/100pct", "old/1pct/val.csv"):
        capsys.readouterr()
        assert split("--out-dir", "new", "--index-csv", "new.csv", "--val-from", source, "--seed", 1) == 0
        said = capsys.readouterr().out
        assert f"{len(kept)} exams of {source} validate, 4 more are no longer usable" in said
        sets = tables.read_split(here / "new", 100).sets
        assert ids(sets["val"]) == kept and set.union(*map(ids, sets.values())) == ids(index) - set(gone)


@pytest.mark.parametrize(("words", "says"), [
    (("--folds", 3, "--val-ratio", 0.2), "--val-ratio: contradicts --folds"),
    (("--val-from", "artifacts/manifest_ears.csv", "--val-ratio", 0.2), "--val-ratio: contradicts --val-from"),
    (("--val-from", "x.csv", "--folds", 3), "--val-from: a fixed validation set and --folds contradict"),
    (("--val-from", "nowhere"), "--val-from nowhere: is neither"),
    (("--val-from", "other.csv"), "none of its 1 exams is usable"),
    (("--folds", 1), "--folds: got 1"), (("--folds", 1000), "fewer than the 1001 sets"),
    (("--min-per-class", 30), "--min-per-class 30: code 1: "),
])
def test_an_impossible_split_is_one_line_with_status_2_and_nothing_is_written(here, capsys, words, says):
    (here / "other.csv").write_text("exam_id\nnone\n")
    assert split("--out-dir", "s", *words) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not (here / "s").exists()


def test_a_minimum_that_was_not_requested_only_warns(here, capsys):
    index = tables.INDEX.read(here / "artifacts/dataset_index.csv")
    ears = np.flatnonzero((index.left_code == 4) | (index.right_code == 4))
    tables.INDEX.write(here / "few.csv", index.drop(ears[1:]))
    assert split("--out-dir", "s", "--index-csv", "few.csv") == 0
    assert "too few ears of a class (at least 1 needed): code 4: 0 ears in tune of s" in capsys.readouterr().err
    assert split("--out-dir", "s", "--index-csv", "few.csv", "--min-per-class", 0) == 0
    assert "too few ears" not in capsys.readouterr().err


def test_sets_that_are_too_small_are_named_with_what_makes_them_larger(here, capsys):
    assert split("--out-dir", "s", "--tune-ratio", 0.05, "--val-ratio", 0.04) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "are too few" in line]
    for name, remedy in (("1pct: train", "--pct"), ("100pct: tune", "--tune-ratio"), ("100pct: val", "--folds")):
        (warning,) = [line for line in said if f"{name} set, normal_vs_abnormal" in line]
        assert remedy in warning
    stats = json.loads((here / "s/100pct/stats.json").read_text())
    tune = tables.SPLIT.read(here / "s/100pct/tune.csv")
    own = [stats["sets"]["tune"].get("patients", len(tune)), int((tune[["left_code", "right_code"]] > 0).sum().sum())]
    assert f"{own[1]} ears of {own[0]} " in stats["too_small"]["tune"] and "1pct: tune" not in "".join(said)

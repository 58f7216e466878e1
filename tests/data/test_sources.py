"""The ears that a run works on: those of its split and task, at most `--limit` exams of each set, on either route."""
import hashlib
from pathlib import Path

import numpy as np
import pytest
from helpers.small_study import MANIFEST, codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, EarSpec
from medical_fenlei.data.sources import find_ears
from medical_fenlei.run_report.data_section import data_section
from medical_fenlei.tasks import find_task


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four exams to train on, the second without a left ear, the third with one unlabelled; two to tune."""
    monkeypatch.chdir(tmp_path)
    train = {"a": (5, 1), "b": (None, 2), "c": (0, 5), "d": (1, 1)}
    tune = codes_in_turn("xy")
    return write_study(tmp_path, {"train": train, "tune": tune}, EarSpec(num_slices=2, image_size=8))


def found_ears(store, *, task="six_class", sample="exam", limit=None):
    data = DataConfig(sample=sample, pct=100, limit=limit)
    return find_ears(data, store, task and [find_task(task)], ("train", "tune"))


@pytest.mark.parametrize(("limit", "exams", "ears"), [
    (None, "abcd", 6), (1, "a", 2), (2, "ab", 3), (3, "abc", 4), (9, "abcd", 6),
])
def test_limit_counts_exams_on_the_dual_route(study, limit, exams, ears):
    sources = found_ears(study, limit=limit)
    assert sorted(set(sources.ears["train"].exam_id)) == list(exams) and len(sources.ears["train"]) == ears
    dataset = sources.dataset(study, "train")
    assert len(dataset) == len(exams) and dataset.present.sum() == ears
    assert len(sources.dataset(study, "tune")) == min(limit or 2, 2)


def test_limit_counts_exams_on_the_ear_route_too(study):
    sources = found_ears(study, sample="ear", limit=2)
    dataset = sources.dataset(study, "train")
    assert len(dataset) == 3 and dataset.batch(np.arange(3)).volume.shape[:2] == (3, 1)
    assert sources.ears["train"].exam_id.tolist() == ["a", "a", "b"]


def test_limit_counts_exams_that_the_task_concerns(study):
    sources = found_ears(study, task="cholesteatoma_vs_csoma", limit=2)
    assert sources.ears["train"].exam_id.tolist() == ["a", "b"]                                  # a: right only, c: not at all
    dataset = sources.dataset(study, "train")
    assert dataset.present.tolist() == [[False, True], [False, True]] and dataset.code.tolist() == [[0, 1], [0, 2]]


def test_without_a_task_every_labelled_ear_is_found(study):
    sources = found_ears(study, task=None)
    assert sources.dataset(study, "train").present.tolist() == [[True, True], [False, True], [False, True], [True, True]]


def test_the_tables_that_ears_come_from_are_named_with_their_hashes(study):
    study.write_index()
    told, folder = found_ears(study).description, Path(f"{DataConfig().splits_root}/100pct")
    for path in (Path(MANIFEST), folder / "train.csv", folder / "tune.csv", study.folder / "index.csv"):
        shown = path if path.parent != study.folder else f"{path.parent.name}/{path.name}"
        assert f"{shown} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})" in told
    assert "\n" not in told


def test_a_split_that_parts_patients_is_named_in_every_figure_made_from_it(study, caplog):
    assert found_ears(study).notes == () and not caplog.messages
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    keys = manifest.patient_key.replace("patient_of_exam_y", "patient_of_c")
    tables.MANIFEST.write(Path(MANIFEST), manifest.assign(patient_key=keys))
    note, = found_ears(study).notes
    assert "1 patients are in several sets" in note and "c; exam_y" in note and caplog.messages == [note]
    told = data_section(DataConfig(pct=100), Path(), {})
    assert told["parted_patients"] == note and not told["tables_missing"]

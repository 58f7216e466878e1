"""The ears of a set: their volumes are read on first use, and ears that are left out leave a note."""
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.small_study import codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, EarSpec
from medical_fenlei.data.sources import Sources, find_ears
from medical_fenlei.errors import UserError
from medical_fenlei.leakage.two_manifests import SharedPatients
from medical_fenlei.trained.ear_set import EarSet


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A training set of three exams and a validation set of two, opened together."""
    monkeypatch.chdir(tmp_path)
    store = write_study(tmp_path, {"train": codes_in_turn("abc"), "val": codes_in_turn("xy")},
                        EarSpec(num_slices=2, image_size=8))
    sources = find_ears(DataConfig(pct=100), store, None, ("train", "val"))
    return {name: EarSet(name, sources, store, torch.device("cpu")) for name in ("train", "val")}


def test_volumes_are_read_on_first_use_and_only_once(sets, monkeypatch):
    opened, dataset = [], Sources.dataset
    monkeypatch.setattr(Sources, "dataset", lambda self, *args: opened.append(args[1]) or dataset(self, *args))
    assert len(sets["val"].ears) == 4 and not opened
    assert sets["val"].dataset is sets["val"].dataset and len(sets["val"].ears_in_order) == 4
    assert opened == ["val"]


def test_an_ear_that_cannot_be_read_is_an_error_at_first_use_of_its_set_alone(sets):
    store = sets["val"].store
    Path(store.folder / "exam_y_left.npy").unlink()
    assert len(sets["val"].ears) == 4 and len(sets["train"].dataset) == 6
    with pytest.raises(UserError, match="exam_y_left"):
        _ = sets["val"].dataset


def test_all_sets_that_are_opened_together_count_for_the_storage(sets):
    placement = sets["val"].dataset.placement
    assert placement.nbytes == 10 * 2 * 2 * 8 * 8                # ten ears of int16


def test_leaving_ears_out_leaves_a_note_and_the_other_sets_as_they_are(sets):
    val = sets["val"]
    fewer = val.without(SharedPatients(val.ears.exam_id == "exam_x", {"the same study": 1}, ("not known",)))
    assert fewer.ears.exam_id.tolist() == ["exam_y"] * 2 and len(fewer.notes) == 2 and fewer.notes[1] == "not known"
    assert fewer.notes[0].startswith("2 ears of") and "1 by the same study" in fewer.notes[0]
    assert len(fewer.dataset) == 2 and len(val.ears) == 4 and val.notes == ()
    assert fewer.sources.ears["train"] is val.sources.ears["train"]
    assert val.without(SharedPatients(pd.Series(False, val.ears.index), {})).notes == ()


def test_rejects_and_hashes_are_those_of_the_sources(sets):
    rejects = tables.REJECTS.frame([{"exam_id": "exam_q", "file": "", "reason": "no_series", "detail": ""}])
    val = replace(sets["val"], sources=replace(sets["val"].sources, rejects=rejects))
    assert val.rejects is rejects and {"manifest", "train", "val", "cache_key"} <= val.hashes.keys()

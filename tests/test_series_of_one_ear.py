"""An exam that has only reconstructions of one ear each: each ear is cached from its own series, on its own side."""
import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, write_volume

from medical_fenlei import tables
from medical_fenlei.ears.store import choose_store
from medical_fenlei.phantom.anatomy import Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES

SHAPE, SPACING = (24, 64, 64), (2.0, 1.5, 1.5)
"""Shape and spacing in mm of a field of view around one ear, 96 mm wide."""


@pytest.mark.parametrize("names", [("SE1", "SE2"), ("SE2", "SE1")])
def test_each_ear_comes_from_its_own_series_on_its_own_side(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    person, pose = sample_person(np.random.default_rng(1), age_years=40, aeration=0.4), Pose(offset_mm=(3.0, -2.0, 0.0))
    marks = landmarks(person, pose)
    for side, name in zip(SIDES, names, strict=True):
        affine = np.eye(4)
        affine[:3, :3] = np.diag(SPACING)[::-1]
        middle = np.array([side.sign * 48.0, -2.0, marks[f"tympanum_{side}"][2]])
        affine[:3, 3] = middle - affine[:3, :3] @ (np.array(SHAPE) / 2)
        hu = draw_head(person, dict.fromkeys(SIDES, EarChange()), pose, Affine(affine), SHAPE).hu
        write_volume(tmp_path / "data/medical_data_2/2024-01-01/7" / name, np.rint(hu).astype(int), affine, SeriesFormat())
    (tmp_path / "metadata").mkdir()
    pd.DataFrame([["7", "2024-01-01", "5", "1"]], columns=["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练"]).to_csv(
        tmp_path / "metadata/labels.csv", index=False)
    assert run("build_index", "--xlsx-path", "metadata/labels.csv", "--num-workers", 1) == 0
    index = tables.INDEX.read(tmp_path / "artifacts/dataset_index.csv").iloc[0]
    assert (index.series_relpath[-3:], index.right_series_relpath[-3:]) == names
    assert run("build_manifest_ears", "--num-workers", 1) == 0
    manifest = tables.MANIFEST.read(tmp_path / "artifacts/manifest_ears.csv").set_index("side")
    assert manifest.label_code.to_dict() == {"left": 5, "right": 1}
    index_row = tables.INDEX.read(tmp_path / "artifacts/dataset_index.csv").assign(patient_key="p")
    tables.SPLIT.write(tmp_path / "artifacts/splits_dual/100pct/train.csv", index_row)
    spec = ("--num-slices", 8, "--image-size", 32, "--crop-mm", 40)
    assert run("build_cache_ears", "--pct", 100, *spec, "--num-workers", 1) == 0
    store = choose_store(tmp_path / "cache/ears_hu", None)
    for side in SIDES:
        facts = store.read_facts("7", side)
        assert facts["series_relpath"] == manifest.series_relpath[str(side)]
        miss = np.linalg.norm(np.subtract(facts["localization"]["ear_centre"], marks[f"tympanum_{side}"]))
        assert miss < 8, (side, miss, facts["localization"])

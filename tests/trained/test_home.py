"""The data of a trained network are found from another working folder."""
from pathlib import Path

import pytest

from medical_fenlei import settings
from medical_fenlei.config import EAR_ROUTE, DataConfig
from medical_fenlei.runs import Run
from medical_fenlei.trained.home import at_home, home_of


def study(folder):
    (folder / "artifacts/splits_dual").mkdir(parents=True)
    (folder / "outputs/seeds/one/seed_0").mkdir(parents=True)
    return Run(folder / "outputs/seeds/one/seed_0")


def test_a_run_outside_the_working_folder_brings_its_splits_manifest_dicom_and_cache(tmp_path, monkeypatch):
    run, elsewhere = study(tmp_path / "theirs"), study(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    found = at_home(EAR_ROUTE, run).data
    for name in ("splits_root", "manifest_csv", "dicom_base", "cache_dir"):
        assert getattr(found, name) == tmp_path / "theirs" / getattr(DataConfig(), name)
    assert at_home(EAR_ROUTE, elsewhere) == EAR_ROUTE


SEED = "theirs/outputs/seeds/one/seed_0"


@pytest.mark.parametrize("within", [".", "theirs/outputs", SEED, f"{SEED}/x"])
def test_the_data_are_found_from_a_folder_around_the_run_or_in_it_that_is_not_the_one_it_was_trained_in(
        tmp_path, monkeypatch, within):
    run, folder = study(tmp_path / "theirs"), tmp_path / within
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    assert at_home(EAR_ROUTE, run).data.splits_root == tmp_path / "theirs/artifacts/splits_dual"
    monkeypatch.chdir(tmp_path / "theirs")
    assert at_home(EAR_ROUTE, run) == EAR_ROUTE


def test_a_working_folder_around_the_run_that_has_such_data_of_its_own_is_where_it_was_trained(tmp_path, monkeypatch):
    run = study(tmp_path / "theirs")
    study(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert home_of(run, DataConfig()) is None


def test_where_splits_and_manifest_are_absolute_cache_and_dicom_show_where_the_run_was_trained(tmp_path, monkeypatch):
    run = study(tmp_path / "theirs")
    (tmp_path / "theirs/cache/ears_hu").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert home_of(run, DataConfig(splits_root=Path("/s"), manifest_csv=Path("/m.csv"))) == tmp_path / "theirs"


def test_absolute_paths_stay_and_so_does_a_run_with_no_data_above_it(tmp_path, monkeypatch):
    run, lone = study(tmp_path / "theirs"), Run(tmp_path / "lone/outputs/b")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    fixed = settings.changed(EAR_ROUTE, cache_dir=Path("/scratch/cache"))
    assert at_home(fixed, run).data.cache_dir == Path("/scratch/cache")
    assert home_of(lone, DataConfig()) is None

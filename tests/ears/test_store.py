"""The cache: entries are complete, damage is found, and several builders share the work."""
import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.commands import ROOT
from helpers.dicom_files import axial, write_volume
from helpers.small_study import write_manifest, write_splits

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears import build
from medical_fenlei.ears import store as store_module
from medical_fenlei.ears.build import fill_store, verify_store
from medical_fenlei.ears.source import (
    build_command,
    command_that_builds,
    entry_states,
    missing_ears,
    refuse_near_miss,
    refuse_stale,
    refuse_unnamed,
)
from medical_fenlei.ears.store import BUILDERS, LOCK, EarStore, choose_store
from medical_fenlei.errors import UserError
from medical_fenlei.phantom.anatomy import Pose, sample_person
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side

EXAMS = ("001", "002", "003", "004")
SHAPE = (6, 48, 48)


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    base = tmp_path_factory.mktemp("dicom")
    for number, exam in enumerate(EXAMS):
        write_volume(base / exam, np.random.default_rng(number).integers(-1000, 2000, SHAPE), axial(SHAPE, (1.0, 3.0, 3.0)))
    return base


MANIFEST = pd.DataFrame([{"exam_id": exam, "side": str(side), "series_relpath": exam} for exam in EXAMS for side in SIDES])


@pytest.fixture
def store(tmp_path):
    return EarStore(tmp_path / "cache", EarSpec(num_slices=4, image_size=16, crop_mm=40))


def fill(store, dicom, manifest=MANIFEST, workers=1):
    return fill_store(store, manifest, dicom_base=dicom, workers=workers, label="ears")


def files(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir() if path.name not in (LOCK, BUILDERS)}


@pytest.mark.parametrize("harm", ["a flipped bit", "cut short", "no facts", "facts of another"])
def test_a_damaged_entry_is_found_and_made_anew(store, dicom, harm):
    assert fill(store, dicom).made == 8
    whole = files(store)
    npy, facts = store.folder / "002_left.npy", store.folder / "002_left.json"
    if harm == "a flipped bit":
        data = bytearray(npy.read_bytes())
        data[700] ^= 4
        npy.write_bytes(data)
    elif harm == "cut short":
        npy.write_bytes(npy.read_bytes()[:-100])
    else:
        facts.write_text("{" if harm == "no facts" else (store.folder / "003_left.json").read_text())
    assert verify_store(store, MANIFEST, workers=2) == ["002 left"]
    assert list(missing_ears(store, MANIFEST).index) == [2]
    assert fill(store, dicom).made == 1 and files(store) == whole
    assert verify_store(store, MANIFEST, workers=1) == []


def test_a_cache_larger_than_the_free_space_is_refused_before_anything_is_written(store, dicom, monkeypatch):
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: SimpleNamespace(free=build.SPARE_BYTES + 8 * 4000))
    with pytest.raises(UserError, match=r"8 ears need 0\.07 GB, 0\.07 GB are free"):
        fill(store, dicom)
    assert not store.folder.exists()
    fill(store, dicom, MANIFEST[:2])                             # two ears fit


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_ends_the_build_in_one_line_with_nothing_half_written(store, dicom, monkeypatch, number):
    real, written = os.fsync, []

    def fsync(file):
        written.append(1)
        if len(written) == 9:                                    # after spec.json and three ears, NPY and JSON: in the fourth
            raise OSError(number, "full")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="the disk is full; finished ears are kept"):
        fill(store, dicom)
    assert len(missing_ears(store, MANIFEST)) == 5 and not list(store.folder.glob(".*.part"))
    assert verify_store(store, MANIFEST, workers=1) == []
    monkeypatch.undo()
    assert fill(store, dicom).made == 5


def hold(folder, spec, exam, held, release):
    with EarStore(Path(folder), spec).claim(exam, wait=False) as claimed:
        assert claimed
        held.set()
        release.wait(30)


def test_an_exam_of_another_builder_is_left_to_it_and_taken_over_when_it_dies(store, dicom):
    store.write_spec()
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(store.folder.parent), store.spec, "003", held, release))
    other.start()
    assert held.wait(30)
    with store.claim("003", wait=False) as claimed:
        assert not claimed
    with store.claim("002", wait=False) as claimed:
        assert claimed
    other.kill()                                                 # the system lets go for it
    other.join()
    assert fill(store, dicom).made == 8


def build_slowly(folder, spec, held, release):
    with EarStore(Path(folder), spec).building():
        held.set()
        release.wait(30)


def test_files_of_a_killed_builder_are_removed_but_never_those_of_a_running_one(store, dicom):
    store.write_spec()
    remains = store.folder / ".001_left.npy.0123abcd.part"
    remains.write_bytes(b"half")
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    with store.building():
        assert not remains.exists()
    other = context.Process(target=build_slowly, args=(str(store.folder.parent), store.spec, held, release))
    other.start()
    assert held.wait(30)
    remains.write_bytes(b"half")                                 # the other's, who is still writing it
    fill(store, dicom)
    assert remains.exists()
    release.set()
    other.join()
    fill(store, dicom)
    assert not remains.exists()


def test_a_build_reports_its_time_by_stage_and_the_ears_that_it_made(store, dicom):
    done = fill(store, dicom, workers=2)
    assert done.made == 8 and set(done.seconds) == {"headers", "decoding and cutting", "writing"}
    assert all(spent > 0 for spent in done.seconds.values())
    again = fill(store, dicom)
    assert again.made == 0 and again.seconds == {} and again.rejects.empty


def test_reading_for_training_is_a_memory_map_of_what_the_spec_says(store, dicom):
    fill(store, dicom)
    volume = store.read("001", Side.RIGHT)
    assert isinstance(volume, np.memmap) and volume.shape == (4, 16, 16) and not volume.flags.writeable
    assert (store.folder / "001_right.npy").stat().st_size == store.spec.nbytes


@pytest.fixture(scope="module")
def one_ear(tmp_path_factory):
    """A scan of the left ear alone."""
    base, shape = tmp_path_factory.mktemp("one_ear"), (20, 64, 64)
    person = sample_person(np.random.default_rng(1), age_years=40)
    affine = axial(shape, (2.0, 1.5, 1.5))
    affine[:2, 3] += (46, 4)
    hu = draw_head(person, dict.fromkeys(SIDES, EarChange()), Pose(), Affine(affine), shape).hu
    write_volume(base / "alone", np.rint(hu).astype(np.int16), affine)
    return base


@pytest.mark.parametrize("options", [
    {"crop_mm": 40.0}, {"target_spacing": 2.0, "sampling": "roi", "align": True}, {"extent": "half"}], ids=str)
def test_an_ear_outside_the_scan_is_reported_and_the_other_is_made(tmp_path, one_ear, options):
    store = EarStore(tmp_path, EarSpec(num_slices=4, image_size=16, **options))
    manifest = pd.DataFrame([{"exam_id": "005", "side": str(side), "series_relpath": "alone"} for side in SIDES])
    for made in (1, 0):                                          # and a build that follows says the same
        done = fill(store, one_ear, manifest)
        assert done.made == made
        assert done.rejects[["exam_id", "file", "reason"]].values.tolist() == [["005", "alone", "ear_not_in_scan"]]
        assert done.rejects.detail.item().startswith("right:")
        assert store.has("005", Side.LEFT) and not store.has("005", Side.RIGHT)
        assert list(missing_ears(store, manifest).side) == ["right"]
    whole = files(store)
    assert fill(store, one_ear, manifest[manifest.side == "right"], workers=2).made == 0 and files(store) == whole
    assert store.read_facts("005", Side.LEFT)["localization"]["ear_centre"][0] == pytest.approx(42, abs=12)
    assert verify_store(store, manifest, workers=1) == []


@pytest.mark.end_to_end
def test_builds_that_are_killed_or_share_a_store_give_the_same_bytes():
    soak = [sys.executable, ROOT / "tools" / "soak_cache.py", "--kills", "10", "--builders", "3", "--exams", "8"]
    done = subprocess.run(soak, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "killed 10 times" in done.stdout and "3 concurrent builders" in done.stdout


def test_a_series_whose_name_is_not_utf8_is_cached_and_keeps_its_name(store, dicom, tmp_path):
    name = os.fsdecode("骨窗".encode("gbk"))
    shutil.copytree(dicom / "001", tmp_path / "data" / name)
    manifest = MANIFEST[:2].assign(series_relpath=name)
    assert fill(store, tmp_path / "data", manifest).made == 2
    assert store.read_facts("001", Side.LEFT)["series_relpath"] == name and store.is_sound("001", Side.LEFT)
    assert len((store.folder / "index.csv").read_text().splitlines()) == 3


def test_of_two_builders_that_finish_together_the_index_that_stays_lists_the_ears_of_both(store):
    listed, release = threading.Event(), threading.Event()

    class Slow(EarStore):
        """Another builder, which has listed the entries and has not written the index yet."""

        def _entries(self):
            rows = list(super()._entries())
            listed.set()
            release.wait(60)
            return iter(rows)

    def write(exam):
        store.write(exam, Side.LEFT, np.zeros(store.spec.shape, np.int16), {})

    write("first")
    one = threading.Thread(target=Slow(store.folder.parent, store.spec).write_index)
    one.start()
    assert listed.wait(60)
    write("second")
    other = threading.Thread(target=store.write_index)
    other.start()
    other.join(0.3)                                              # in turn: it waits; otherwise it is done
    release.set()
    for thread in (one, other):
        thread.join(60)
    assert {*tables.CACHE_INDEX.read(store.folder / "index.csv").exam_id} == {"first", "second"}


def test_an_empty_manifest_lacks_no_ear(store):
    assert missing_ears(store, MANIFEST[:0]).columns.tolist() == list(MANIFEST)


def test_of_several_caches_none_is_chosen_and_all_are_listed(tmp_path):
    assert choose_store(tmp_path, None).spec == EarSpec()
    for size in (32, 48):
        EarStore(tmp_path, EarSpec(image_size=size)).write_spec()
    with pytest.raises(UserError, match=r"--image-size 32.*--image-size 48.*; or remove those .*: rm -r .*k32_s32"):
        choose_store(tmp_path, None)
    spec_json = next(tmp_path.glob("k32_s32*/spec.json"))
    spec_json.write_text(json.dumps({**json.loads(spec_json.read_text()), "image_size": 99}))
    with pytest.raises(UserError, match="build it again"):
        choose_store(tmp_path, None)


def test_a_cache_that_another_nearly_is_is_not_built_in_silence(tmp_path):
    there, data = EarSpec(crop_mm=80.0), DataConfig(cache_dir=tmp_path, dicom_base=tmp_path)
    EarStore(tmp_path, there).write_spec()
    (tmp_path / "k1_other").mkdir()
    (tmp_path / "k1_other" / "spec.json").write_text("{")
    for asked, refused in ((replace(there, crop_mm=81.0), True), (replace(there, crop_mm=81.0, num_slices=31), True),
                           (replace(there, crop_mm=81.0, num_slices=31, sampling="roi"), False), (there, False)):
        if refused:
            with pytest.raises(UserError, match=r"no cache has .*-mm 81.* has .*-mm 80.*build_cache_ears") as raised:
                refuse_near_miss(EarStore(tmp_path, asked), data)
            assert there.key in str(raised.value) and "\n" not in str(raised.value)
        else:
            refuse_near_miss(EarStore(tmp_path, asked), data)
    refuse_near_miss(EarStore(tmp_path / "none", EarSpec(crop_mm=81.0)), replace(data, cache_dir=tmp_path / "none"))


@pytest.mark.parametrize(("named", "unnamed"), [
    (("image_size",), "--crop-mm and --num-slices were not named and so the default"),
    (("image_size", "num_slices"), "--crop-mm was not named"), (("image_size", "num_slices", "crop_mm"), "")])
def test_a_cache_whose_options_may_be_expected_where_none_was_named_is_said_with_the_flags_that_use_it(
        tmp_path, named, unnamed):
    there, data = EarSpec(num_slices=6, image_size=48, crop_mm=64.0), DataConfig(cache_dir=tmp_path)
    EarStore(tmp_path, there).write_spec()
    EarStore(tmp_path, EarSpec(num_slices=9, image_size=48, crop_mm=63.0, align=True)).write_spec()
    if not unnamed:
        shutil.rmtree(next(tmp_path.glob("k9_*")))
    asked = EarStore(tmp_path, EarSpec(image_size=128))
    if unnamed:
        with pytest.raises(UserError, match=rf"--image-size 128.*{unnamed}") as raised:
            refuse_unnamed(asked, named, data)
        assert f"{there.key} is used by giving --num-slices 6 --image-size 48 --crop-mm 64.0" in str(raised.value)
        assert "build_cache_ears.py" in str(raised.value) and "--image-size 128" in str(raised.value)
    else:
        refuse_unnamed(asked, named, data)
    asked.write_spec()
    refuse_unnamed(asked, named, data)                           # it exists: these are its flags


def test_a_command_that_builds_the_cache_is_named_only_where_it_builds_these_ears(tmp_path):
    codes = {"a": (1, 5), "b": (5, 5)}
    write_manifest(tmp_path / "m.csv", codes)
    write_splits(tmp_path / "s", {"train": {"a": (1, 5)}})
    data = DataConfig(splits_root=tmp_path / "s", manifest_csv=tmp_path / "m.csv", pct=20)
    manifest = tables.MANIFEST.read(tmp_path / "m.csv")
    of_split = manifest[manifest.exam_id == "a"]
    command = command_that_builds(EarSpec(), data, of_split)
    assert command.startswith("python scripts/build_cache_ears.py") and "--pct" not in command
    assert command_that_builds(EarSpec(), data, manifest) == ""
    assert command_that_builds(EarSpec(), replace(data, manifest_csv=tmp_path / "none.csv"), of_split) == ""
    (tmp_path / "s/100pct").rename(tmp_path / "s/20pct")
    assert "--pct 20" in command_that_builds(EarSpec(), data, of_split)


def test_a_store_refuses_volumes_of_another_shape_and_unsafe_names(tmp_path):
    store = EarStore(tmp_path, EarSpec(num_slices=2, image_size=8))
    store.write("1", Side.LEFT, np.zeros((2, 8, 9), np.int16), {})
    with pytest.raises(UserError, match=r"got int16 \(2, 8, 9\), expected int16 \(2, 8, 8\)"):
        store.read("1", Side.LEFT)
    for exam_id in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(UserError):
            store.write(exam_id, SIDES[0], np.zeros((2, 8, 8), np.int16), {})
    assert store.write_index() == 1


@pytest.fixture
def own(dicom, tmp_path):
    """A copy of the series that a test may change."""
    shutil.copytree(dicom, tmp_path / "data")
    return tmp_path / "data"


def with_digests(manifest, base):
    """The manifest as it is made from the series on disk."""
    return manifest.assign(series_digest=[open_series(base / series).digest for series in manifest.series_relpath])


def states(store, manifest):
    return entry_states(store, manifest).tolist()


def rewrite(folder, change):
    """The series of a folder exported again."""
    hu = np.random.default_rng(99).integers(-1000, 2000, SHAPE)
    if change == "the same UIDs, other pixels":
        write_volume(folder, hu, axial(SHAPE, (1.0, 3.0, 3.0)))
    elif change == "other UIDs":
        write_volume(folder.with_name("x"), hu, axial(SHAPE, (1.0, 3.0, 3.0)))
        shutil.rmtree(folder)
        folder.with_name("x").rename(folder)
    elif change == "another place":
        write_volume(folder, hu, axial(SHAPE, (1.0, 2.5, 2.5)))
    else:
        (folder / "IM0006").unlink()


@pytest.mark.parametrize("change", [
    "another series", "the same UIDs, other pixels", "other UIDs", "another place", "a slice less"])
def test_ears_of_another_source_are_stale_and_cut_anew_as_if_nothing_had_been_there(store, own, tmp_path, change):
    fill(store, own, with_digests(MANIFEST, own))
    if change == "another series":
        (own / "002").rename(own / "other")
        manifest = MANIFEST.assign(series_relpath=MANIFEST.series_relpath.replace("002", "other"))
    else:
        manifest = MANIFEST
        rewrite(own / "002", change)
    manifest = with_digests(manifest, own)
    assert states(store, manifest) == ["current"] * 2 + ["stale"] * 2 + ["current"] * 4
    assert missing_ears(store, manifest).empty
    assert fill(store, own, manifest).made == 2 and set(states(store, manifest)) == {"current"}
    fresh = EarStore(tmp_path / "fresh", store.spec)
    fill(fresh, own, manifest)
    assert files(store) == files(fresh) and fill(store, own, manifest).made == 0


def test_a_copy_that_keeps_the_times_of_its_files_is_the_same_source(store, dicom, tmp_path):
    manifest = with_digests(MANIFEST, dicom)
    fill(store, dicom, manifest)
    shutil.copytree(dicom, tmp_path / "copy")
    assert with_digests(MANIFEST, tmp_path / "copy").equals(manifest)


def test_a_series_that_is_no_longer_the_one_of_the_manifest_is_a_reject_and_no_entry(store, own):
    manifest = with_digests(MANIFEST, own)
    rewrite(own / "002", "another place")
    done = fill(store, own, manifest)
    assert done.made == 6 and done.rejects[["exam_id", "reason"]].values.tolist() == [["002", "changed_file"]] * 2
    assert "build index and manifest again" in done.rejects.detail[0] and "missing" in states(store, manifest)
    os.utime(own / "003/IM0001", (1, 1))                         # copied without its time: the images are the same
    assert fill(store, own, manifest[manifest.exam_id == "003"]).rejects.empty


def test_a_stale_ear_that_cannot_be_cut_anew_is_not_kept(store, own):
    fill(store, own)
    done = fill(store, own, MANIFEST.assign(series_relpath=MANIFEST.series_relpath.replace("002", "nowhere")))
    assert done.made == 0 and done.rejects.reason.tolist() == ["missing_folder"] * 2
    assert list(missing_ears(store, MANIFEST).exam_id) == ["002", "002"]


def test_an_ear_whose_facts_cannot_be_read_is_cut_anew_without_being_asked_to(store, dicom):
    fill(store, dicom)
    whole = files(store)
    (store.folder / "002_left.json").write_text('{"exam_id"')
    assert states(store, MANIFEST)[2] == "damaged"
    assert fill(store, dicom).made == 1 and files(store) == whole


def test_a_re_cut_that_is_interrupted_leaves_no_entry_of_two_sources(store, own, monkeypatch):
    fill(store, own)
    mapped = store.read("002", Side.LEFT)
    before = np.array(mapped)
    manifest = MANIFEST.assign(series_relpath=MANIFEST.series_relpath.replace("002", "003"))

    write_json = store_module.write_json

    def killed(path, value):                                     # the volume is written, its facts are not
        if path.name == "002_left.json":
            raise KeyboardInterrupt
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(store, own, manifest)
    assert list(missing_ears(store, manifest).side) == ["left", "right"] and states(store, MANIFEST)[2] == "missing"
    assert np.array_equal(mapped, before)                        # what was mapped before stays what it was
    assert fill(store, own, manifest).made == 2
    assert np.array_equal(store.read("002", Side.LEFT), store.read("003", Side.LEFT))


def test_a_cache_of_an_earlier_version_serves_as_long_as_its_series_are_the_same_and_it_is_said_once(store, dicom, caplog):
    fill(store, dicom)
    for path in store.folder.glob("*_*.json"):
        path.write_text(path.read_text().replace('"source"', '"formerly"'))
    manifest = with_digests(MANIFEST, dicom)
    caplog.set_level("WARNING", logger="medical_fenlei")
    for _ in range(2):
        refuse_stale(store, manifest, entry_states(store, manifest), command="")
    said, = [record.getMessage() for record in caplog.records]
    assert "8 cached ears" in said and "by an earlier version" in said
    moved = manifest.assign(series_relpath="elsewhere/" + manifest.series_relpath)
    expected = r"8 of 8 ears .*001 left: cut from 001, expected elsewhere/001.*name another --cache-dir, or remove"
    with pytest.raises(UserError, match=expected):
        refuse_stale(store, moved, entry_states(store, moved), command="")


@pytest.mark.parametrize(("spec", "command"), [
    (EarSpec(num_slices=16), "build_cache_ears.py --splits-root s --num-slices 16"),
    (EarSpec(extent="half", image_size=32), "build_cache_dual.py --splits-root s --cache-dir cache/ears_hu --image-size 32"),
    (EarSpec(extent="half", crop_size=64), "build_cache_ears.py --splits-root s --extent half --crop-size 64")])
def test_the_command_that_cuts_them_anew_is_the_one_of_their_preprocessing(spec, command):
    assert build_command(spec, DataConfig(splits_root=Path("s"))) == f"python scripts/{command}"

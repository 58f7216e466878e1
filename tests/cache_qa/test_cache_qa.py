"""The page of a cache: the most unusual ear comes first, pictures show the right place, and damaged ears are reported."""
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, axial, write_volume
from helpers.small_study import write_manifest
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.cache_qa.outliers import PARTS, deviations, disagreement, median_histogram, rank, read_ear, read_ears
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.build import fill_store
from medical_fenlei.ears.scan_view import open_view, plane_line
from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import SIDES, Side

SPEC = EarSpec(num_slices=6, image_size=40, crop_size=56)
EXAMS = ("0001", "0002", "a&b <i>#1", "0004")
"""One has an id that neither a page nor a URL holds as it stands."""
CANARY = "CANARYPERSON"
ODD, WHOLE = ("0002", Side.LEFT), ("0001", Side.RIGHT)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Four exams of a drawn skull as DICOM, the manifest, and the cache that fill_store makes of them."""
    here = tmp_path_factory.mktemp("hospital")
    shape, spacing = (8, 150, 140), (2.0, 1.3, 1.3)
    affine = axial(shape, spacing)
    _, r, c = np.indices(shape)
    x, y = c * spacing[2] + affine[0, 3], r * spacing[1] + affine[1, 3]
    radius = np.hypot(x / 73, y / 92)
    person = {"PatientName": f"{CANARY}^Name", "PatientID": f"{CANARY}1", "PatientComments": CANARY}
    for number, exam in enumerate(EXAMS):
        hu = np.where(radius < 1, 40, -1000) + np.random.default_rng(number).integers(-20, 20, shape)
        hu[(radius < 1) & (radius > 0.93)] = 1200
        hu[(abs(abs(x) - 42) < 20) & (abs(y - 5) < 12)] = 900
        write_volume(here / "data/medical_data_2" / exam / "bone", hu, affine, SeriesFormat(attributes=person))
    base, path = here / "data/medical_data_2", here / "artifacts/manifest_ears.csv"
    write_manifest(path, dict.fromkeys(EXAMS, (5, 1)))
    digests = {exam: open_series(base / exam / "bone").digest for exam in EXAMS}
    manifest = tables.MANIFEST.read(path)
    manifest = manifest.assign(series_digest=manifest.exam_id.map(digests))
    tables.MANIFEST.write(path, manifest)
    store = EarStore(here / "cache/ears_hu", SPEC)
    fill_store(store, manifest, dicom_base=base, workers=1, label="ears")
    return here


@pytest.fixture
def hospital(built, copied):
    """A copy of it to work in, and its store."""
    here = copied(built)
    return here, EarStore(here / "cache/ears_hu", SPEC)


def make_odd(store, name=ODD, **facts):
    """Most of an ear becomes air, and its facts say so."""
    volume, old = np.array(store.read(*name)), store.read_facts(*name)
    volume[:, 8:] = -1000
    store.write(*name, volume, {**{k: v for k, v in old.items() if k not in ("exam_id", "side", "sha256")}, **facts})


def qa(*words):
    return run("qa_cache_ears", "--num-workers", 1, *words)


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text.append(data)


def test_an_odd_ear_comes_first_with_the_part_that_makes_it(hospital):
    here, store = hospital
    make_odd(store, padded_share=0.8)
    assert qa("--worst", 0) == 0
    found = tables.QA_EARS.read(here / "artifacts/qa_ears/qa_ears.csv")
    assert (found.exam_id[0], found.side[0], found.padded_share[0]) == (*ODD, 0.8)
    assert found.score[0] > 20 > 3 > found.score[1]              # the page calls no other odd
    assert len(found) == 2 * len(EXAMS) and found.score.is_monotonic_decreasing
    assert found.odd_anatomy.isna().all()                        # nobody was asked
    parts = found[[f"odd_{name}" for name in PARTS if name != "anatomy"]]
    np.testing.assert_allclose(parts.max(axis=1).clip(0), found.score)
    assert [parts.columns[i] for i in parts.to_numpy().argmax(1)] == [f"odd_{why}" for why in found.why]


class FarOff(NamedTuple):
    """An opinion that the ear is somewhere else."""

    apart_mm: float
    doubt: str


def test_a_second_opinion_that_differs_is_a_doubt_and_makes_the_ear_odd(hospital):
    _, store = hospital
    odd = store.read_affine(*ODD)

    def ask(volume, affine, centre):
        return FarOff(31.0, "found 31 mm away") if affine == odd else FarOff(1.0, "")

    manifest = tables.MANIFEST.read(Path("artifacts/manifest_ears.csv"))
    ears, _ = read_ears(store, manifest, workers=0, ask=ask)
    first = rank(ears).iloc[0]
    assert (first.exam_id, first.side, first.why, first.anatomy_apart_mm) == (*ODD, "anatomy", 31.0)
    assert "found 31 mm away" in first.reasons


def test_a_doubt_about_the_scan_is_shown_with_those_about_the_location(hospital):
    here, store = hospital
    location = {**store.read_facts(*ODD)["localization"], "reasons": ["few landmarks"]}
    make_odd(store, scan_doubts=["turned_over: as well upside down"], localization=location)
    assert qa("--worst", 1) == 0
    found = tables.QA_EARS.read(here / "artifacts/qa_ears/qa_ears.csv").set_index(["exam_id", "side"])
    assert found.reasons[ODD] == "turned_over: as well upside down; few landmarks"
    assert "turned_over: as well upside down" in (here / "artifacts/qa_ears/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("mm", "doubted"), [(40, True), (64, False), (96, False), (163, True)])
def test_a_crop_that_is_too_small_or_too_large_in_mm_is_doubtful(built, tmp_path, mm, doubted):
    store, source = (EarStore(folder, SPEC) for folder in (tmp_path, built / "cache/ears_hu"))
    facts = {k: v for k, v in source.read_facts(*WHOLE).items() if k not in ("exam_id", "side", "sha256")}
    affine = np.array(facts["affine_lps"])
    affine[:3, 1:3] *= mm / SPEC.image_size / np.linalg.norm(affine[:3, 1])
    store.folder.mkdir(parents=True)
    store.write(*WHOLE, np.array(source.read(*WHOLE)), {**facts, "affine_lps": affine.tolist()})
    reasons = read_ear(store, WHOLE).reasons
    assert [f"a crop of {mm} × {mm} mm" in reason for reason in reasons].count(True) == doubted


@pytest.mark.parametrize(("part", "changes"), [
    ("confidence", {"confidence": 0.2}), ("padding", {"padded_share": 0.7}), ("plane", {"centre": np.array([60.0, 0, 0])}),
    ("height", {"centre": np.array([0.0, 0, 30])}), ("histogram", {"histogram": np.eye(64)[0]}),
])
def test_each_part_of_the_score_detects_its_own_kind_of_unusual_ear(built, part, changes):
    store = EarStore(built / "cache/ears_hu", SPEC)
    ears = {(exam, side): replace(read_ear(store, (exam, side)), confidence=0.9) for exam in EXAMS for side in SIDES}
    if "centre" in changes:
        changes = {"centre": ears[ODD].centre + changes["centre"]}
    ears[ODD] = replace(ears[ODD], **changes)
    first = rank(list(ears.values())).iloc[0]
    assert first.exam_id == ODD[0] and first.why == part and first.score > 5
    assert first.side == ODD[1] or part in ("plane", "height")   # of these both ears are suspect


def test_every_link_of_the_page_is_there_and_needs_no_network(hospital):
    here, _ = hospital
    assert qa("--worst", 3) == 0
    out = here / "artifacts/qa_ears"
    page = Links((out / "index.html").read_text(encoding="utf-8"))
    assert page.found and all((out / unquote(link)).is_file() for link in page.found), page.found
    assert "a&b <i>#1" in page.text                              # escaped, so that it is read as it is written
    assert len(list((out / "exams").iterdir())) == 3
    for png in out.rglob("*.png"):
        with Image.open(png) as picture:
            picture.load()
            assert png.stat().st_size < 200_000 and len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_a_damaged_ear_is_reported_and_does_not_stop_the_command(hospital, capsys):
    here, store = hospital
    npy = store.folder / f"{WHOLE[0]}_{WHOLE[1]}.npy"
    npy.write_bytes(npy.read_bytes()[:-500])
    (store.folder / "0004_left.json").write_text('{"exam_id": "0004"')
    store.remove("0002", Side.LEFT)
    assert qa() == 3
    said = tables.REJECTS.read(here / "artifacts/qa_ears/qa_ears_rejects.csv")
    assert {(row.exam_id, row.reason, row.detail.split(":")[0]) for row in said.itertuples()} == {
        ("0001", "damaged_entry", "right"), ("0004", "damaged_entry", "left"), ("0002", "not_cached", "left")}
    found = tables.QA_EARS.read(here / "artifacts/qa_ears/qa_ears.csv")
    assert len(found) + len(said) == 2 * len(EXAMS) and (found.picture != "").all()
    assert found[found.exam_id == "0001"].plane_difference_mm.isna().all()
    told = capsys.readouterr()
    assert "2 could not be used" in told.err and "1 passed over: not_cached" in told.out
    assert f"{2 * len(EXAMS)} ears in the manifest: {len(found)} read, 1 not cached, 2 damaged or out of date" in told.out


def test_an_uncached_ear_of_an_exam_without_a_label_is_no_task_for_the_user(hospital, capsys):
    here, store = hospital
    path = here / "artifacts/manifest_ears.csv"
    manifest = tables.MANIFEST.read(path)
    manifest.loc[manifest.exam_id == "0002", "label_code"] = 0
    tables.MANIFEST.write(path, manifest)
    for side in SIDES:
        store.remove("0002", side)
    assert qa("--worst", 0) == 0
    said = tables.REJECTS.read(here / "artifacts/qa_ears/qa_ears_rejects.csv")
    assert said.detail.str.contains("of an exam without a label, which no split contains").all() and len(said) == 2
    assert "2 passed over: not_cached" in capsys.readouterr().out


def test_an_ear_of_another_series_than_the_manifest_names_is_listed_and_not_shown_as_sound(hospital, capsys):
    here, store = hospital
    path = here / "artifacts/manifest_ears.csv"
    manifest = tables.MANIFEST.read(path)
    manifest.loc[manifest.exam_id == "0002", "series_relpath"] = "0002/soft"
    tables.MANIFEST.write(path, manifest.assign(series_digest=[
        "other" if ear == WHOLE else store.read_facts(ear[0], Side(ear[1]))["source"]
        for ear in zip(manifest.exam_id, manifest.side, strict=True)]))
    assert qa("--worst", 0) == 3
    said = tables.REJECTS.read(here / "artifacts/qa_ears/qa_ears_rejects.csv")
    assert {(row.exam_id, row.reason, row.detail.split(";")[0]) for row in said.itertuples()} == {
        ("0001", "stale_entry", "right: 0001/bone has held other images since"),
        ("0002", "stale_entry", "left: cut from 0002/bone, expected 0002/soft"),
        ("0002", "stale_entry", "right: cut from 0002/bone, expected 0002/soft")}
    found = tables.QA_EARS.read(here / "artifacts/qa_ears/qa_ears.csv")
    assert len(found) + len(said) == 2 * len(EXAMS)
    page = " ".join(" ".join(Links((here / "artifacts/qa_ears/index.html").read_text(encoding="utf-8")).text).split())
    assert "stale, cut from another series" in page and "0002/soft" in page


def test_without_the_dicom_the_cached_volumes_are_shown_with_a_warning(hospital, capsys):
    here, _ = hospital
    shutil.rmtree(here / "data")
    assert qa("--limit", 2) == 0
    said = capsys.readouterr()
    assert "no such folder" in said.err and "2 exams drawn, 2 of them without their scan" in said.out
    assert len(list((here / "artifacts/qa_ears/exams").glob("*.png"))) == 2


def test_an_empty_cache_is_one_line(hospital, capsys):
    assert qa("--image-size", 99) == 2
    assert "build_cache_ears" in capsys.readouterr().err


def test_nothing_written_names_a_person(hospital):
    here, _ = hospital
    assert qa("--worst", 0) == 0
    written = [path for path in (here / "artifacts/qa_ears").rglob("*") if path.is_file()]
    assert len(written) == len(EXAMS) + 4
    assert not [path for path in written if CANARY.encode() in path.read_bytes() or CANARY in path.name]


def test_a_picture_shows_the_nearest_slice_and_the_plane_in_its_place(built):
    ear = read_ear(EarStore(built / "cache/ears_hu", SPEC), WHOLE)
    view = open_view(built / "data/medical_data_2", ear.series_relpath, [ear.centre])
    scan = view.affine.matrix
    assert abs(scan[2, 3] + view.k * scan[2, 0] - ear.centre[2]) <= scan[2, 0] / 2
    line = np.column_stack([np.full(2, view.k), plane_line(ear.plane_point, ear.plane_normal, view), np.ones(2)])
    np.testing.assert_allclose((line @ scan[:3].T - ear.plane_point) @ ear.plane_normal, 0, atol=1e-6)
    np.testing.assert_allclose(line[:, 1], [-0.5, 149.5])
    # the plane of this drawn skull is x = 0, the middle column
    np.testing.assert_allclose(line[:, 2], (140 - 1) / 2, atol=3)


def test_centres_disagree_by_their_distance_from_the_mirror_image(built):
    left, right = (read_ear(EarStore(built / "cache/ears_hu", SPEC), ("0001", side)) for side in SIDES)
    turn = np.deg2rad(12)                                        # a head that lies askew, rolled about the y axis
    normal = np.array([np.cos(turn), 0, np.sin(turn)])
    upward = np.array([-np.sin(turn), 0, np.cos(turn)])
    left = replace(left, plane_point=np.zeros(3), plane_normal=normal, centre=40 * normal + 7 * upward)
    right = replace(right, plane_point=np.zeros(3), plane_normal=normal, centre=-40 * normal + 7 * upward)
    np.testing.assert_allclose(disagreement(left, right), 0, atol=1e-9)
    moved = replace(right, centre=right.centre - 3 * normal)
    np.testing.assert_allclose(disagreement(left, moved), (3, 0), atol=1e-9)
    raised = replace(right, centre=right.centre + 5 * upward)
    np.testing.assert_allclose(disagreement(left, raised), (0, 5 * np.cos(turn)), atol=1e-9)
    assert np.isnan(disagreement(left, replace(right, series_relpath="another"))).all()


def test_identical_ears_and_a_single_ear_do_not_divide_by_zero(built):
    store = EarStore(built / "cache/ears_hu", SPEC)
    one = read_ear(store, WHOLE)
    alone = rank([one])
    assert len(alone) == 1 and alone.score[0] == 0 and np.isfinite(alone.histogram_distance[0])
    assert deviations(np.array([1.0, 1, 1, 3, np.nan]), 0.5).tolist()[:4] == [0, 0, 0, 4]
    assert np.isnan(deviations(np.full(3, np.nan), 1.0)).all()
    assert median_histogram([one]).sum() == pytest.approx(1)

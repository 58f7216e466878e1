"""What is no head is refused; slices that no scanner makes, and values that no head has, are doubtful; heads are neither."""
import numpy as np
import pytest
from ears.test_localize import NUMBERS, ONE_EAR, challenge, head
from helpers.dicom_files import SeriesFormat, write_volume
from helpers.drawn_bodies import BODIES, coarse_body

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.head_check import (
    JUDGED_MM,
    MAX_AIR,
    MIN_SKULL,
    SKULL_DEPTH_MM,
    SKULL_MM,
    doubt_about_body_part,
    doubts_about_slices,
    skull_share,
)
from medical_fenlei.ears.localize import locate
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import Rejected
from medical_fenlei.reasons import REASONS
from medical_fenlei.spatial import Affine

HEADS = ((0, 0, 0), (9, -8, 0), (-14, 5, 3), (4, 12, -8))
SPEC = EarSpec(num_slices=4, image_size=16, crop_mm=64)


def codes(doubts):
    return [doubt.partition(":")[0] for doubt in doubts]


def doubts_of(hu, affine):
    return codes(locate(hu, Affine(affine)).doubts)


def slow_skull_share(hu, column_mm):
    """The same, ray by ray."""
    filled = [row for row in range(hu.shape[1]) if (hu[:, row] > -300).mean() > 0.1]
    quarter = (filled[-1] - filled[0]) // 4
    good, rows = {1: 0, -1: 0}, 0
    for k in range(0, len(hu), 2):
        for row in range(filled[0] + quarter, filled[-1] - quarter + 1, 2):
            line = hu[k, row]
            tissue, bone = np.flatnonzero(line > -300), np.flatnonzero(line > 300)
            rows += bool(len(tissue))
            if not len(bone):
                continue
            inside = line[bone[0] + 1:bone[-1] + 1]
            wide = SKULL_MM[0] < (bone[-1] - bone[0]) * column_mm < SKULL_MM[1]
            if wide and (inside <= -300).sum() / (len(inside) + 1) < MAX_AIR:
                good[1] += (bone[0] - tissue[0]) * column_mm <= SKULL_DEPTH_MM
                good[-1] += (tissue[-1] - bone[-1]) * column_mm <= SKULL_DEPTH_MM
    return max(good.values()) / rows


@pytest.mark.parametrize("number", [*NUMBERS, *ONE_EAR])
def test_an_unusual_head_is_a_head_without_doubts(number):
    drawn, found = challenge(number)
    assert found.skull > 1.5 * MIN_SKULL and found.doubts == (), drawn.kinds


@pytest.mark.parametrize("name", BODIES)
def test_no_other_part_of_the_body_is_taken_for_a_head(name):
    for seed in range(4):
        hu, affine = coarse_body(name, seed)
        assert locate(hu, Affine(affine)).skull < 0.8 * MIN_SKULL


def test_the_skull_of_a_head_and_that_of_a_body_are_measured_as_ray_by_ray():
    for hu, affine in [head(*HEADS[2])[:2], *(coarse_body(name, 1) for name in BODIES)]:
        assert skull_share(hu, affine[0, 2], one_sided=False) == pytest.approx(slow_skull_share(hu, affine[0, 2]))


def test_a_head_with_a_window_in_its_skull_is_a_head_and_one_without_a_skull_is_none():
    hu, affine, _ = head()
    one_side, none = hu.copy(), np.minimum(hu, 60)
    one_side[..., :36] = np.minimum(one_side[..., :36], 60)       # beyond 40 mm from the middle
    assert locate(one_side, Affine(affine)).skull > MIN_SKULL > 0 == locate(none, Affine(affine)).skull


def test_a_scan_too_narrow_for_skin_and_ear_is_not_judged():
    assert skull_share(np.full((4, 30, 30), 40), 0.9 * JUDGED_MM / 30, one_sided=True) == 1


@pytest.mark.parametrize("name", ["chest", "thighs"])
def test_no_ear_is_cut_from_another_part_of_the_body(tmp_path, name):
    hu, affine = coarse_body(name, 0)
    write_volume(tmp_path, hu, affine)
    with pytest.raises(Rejected, match="skull") as raised:
        prepare_ears(open_series(tmp_path), SPEC)
    assert raised.value.reason == "not_a_head" and REASONS["not_a_head"].is_fault


@pytest.mark.parametrize("pose", HEADS)
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)], ids=["back to front", "upside down", "both"])
def test_pixels_turned_over_against_the_header_are_doubtful(pose, axes):
    hu, affine, _ = head(*pose)
    assert doubts_of(hu, affine) == []
    turned = locate(np.flip(hu, axes), Affine(affine))
    assert codes(turned.doubts) == ["turned_over"] and max(ear.confidence for ear in turned.ears.values()) < 0.5


def test_a_slice_that_occurs_twice_and_an_empty_one_between_others_are_doubtful():
    hu, _, _ = head()
    assert doubts_about_slices(hu) == ()
    repeated, blank, air_above = hu.copy(), hu.copy(), hu.copy()
    repeated[20] = repeated[3]
    blank[1:-1:2] = np.random.default_rng(0).normal(-1000, 8, blank[1:-1:2].shape)
    air_above[20:] = -1000
    assert codes(doubts_about_slices(repeated)) == ["repeated_slices"] and "1 of the 26" in doubts_about_slices(repeated)[0]
    assert codes(doubts_about_slices(blank)) == ["blank_slices"] and "12 of the 26" in doubts_about_slices(blank)[0]
    assert doubts_about_slices(air_above) == ()                  # a scan may reach beyond the head


@pytest.mark.parametrize("seed", range(3))
def test_doubled_hu_are_doubtful(seed):
    hu, _, _ = head(seed=seed)
    assert codes(doubts_about_slices(np.clip(2 * hu.astype(int), -1024, 3071).astype(np.int16))) == ["scaled_hu"]
    metal = hu.copy()
    metal[:, 60:63, 20:24] = 3071
    assert doubts_about_slices(metal) == ()


def test_a_body_part_is_doubted_only_where_it_is_known_to_be_another_and_never_quoted():
    for stated in ("", "HEAD", "TEMPORAL BONE", "EAR", "颅脑", "Zhang^San", "NECK"):
        assert doubt_about_body_part(stated) == ()
    assert codes(doubt_about_body_part(" chest")) == codes(doubt_about_body_part("C-SPINE")) == ["other_body_part"]


def test_a_doubt_is_stored_with_the_ears(tmp_path):
    hu, affine, _ = head(shape=(20, 116, 112))
    write_volume(tmp_path, hu[:, ::-1], affine, SeriesFormat(attributes={"BodyPartExamined": "CHEST"}))
    ears = prepare_ears(open_series(tmp_path), SPEC)
    assert ears and all(codes(ear.facts["scan_doubts"]) == ["turned_over", "other_body_part"] for ear in ears.values())
    assert {code for ear in ears.values() for code in codes(ear.facts["scan_doubts"])} <= set(REASONS)

"""The law of the verdicts: what an interval decides, and how rarely that is false. The studies are those of check_verdicts."""
import re
from itertools import pairwise

import numpy as np
import pytest
from helpers.commands import ROOT, script

from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.chance import audit_chance
from medical_fenlei.audits.robustness import PairedScores
from medical_fenlei.audits.verdicts import THRESHOLDS, Thresholds, count_verdicts
from medical_fenlei.metrics.bootstrap import Interval

TOOL = script("check_verdicts", "tools")
RISING, FALLING = Thresholds(0.5, 0.6, wrong=0.65), Thresholds(0.0, -0.05)


@pytest.mark.parametrize(("law", "low", "high", "verdict"), [
    (RISING, 0.45, 0.6, "ok"), (RISING, 0.52, 0.58, "ok"), (RISING, 0.45, 0.61, "undecided"), (RISING, 0.2, 0.9, "undecided"),
    (RISING, 0.51, 0.61, "look"), (RISING, 0.65, 0.9, "look"), (RISING, 0.66, 0.9, "wrong"),
    (RISING, np.nan, np.nan, "undecided"),
    (FALLING, -0.05, 0.1, "ok"), (FALLING, -0.06, 0.01, "undecided"), (FALLING, -0.06, -0.01, "look"),
    (THRESHOLDS["dates"], -0.39, 0.29, "undecided"),
])
def test_an_interval_that_contains_a_sound_figure_and_a_fault_is_undecided(law, low, high, verdict):
    assert law.verdict(low, high) == verdict


@pytest.mark.parametrize("law", [*THRESHOLDS.values()])
def test_an_interval_narrower_than_the_distance_of_the_thresholds_always_decides(law):
    room = abs(law.tolerable - law.sound)
    for middle in np.linspace(law.sound - 0.5, law.sound + 0.5, 201):
        assert law.verdict(middle - 0.499 * room, middle + 0.499 * room) != "undecided"


@pytest.mark.parametrize("law", [*THRESHOLDS.values()])
def test_a_figure_farther_from_sound_never_gets_a_milder_verdict(law):
    order, sign = ["ok", "undecided", "look", "wrong"], np.sign(law.tolerable - law.sound)
    for width in (0.01, 0.1, 0.3):
        found = [law.verdict(at - width, at + width) for at in law.sound + sign * np.linspace(-0.5, 0.9, 141)]
        assert all(order.index(one) <= order.index(other) for one, other in pairwise(found))


def test_as_many_patients_as_an_undecided_audit_asks_for_decide_it():
    for kind in (("other ear", ""), ("wrong labels", "")):
        first = TOOL.KINDS[kind](30, np.random.default_rng(1))
        assert first.verdict == "undecided" and f"about {first.patients_to_decide} patients" in first.explanation
        found = [TOOL.KINDS[kind](first.patients_to_decide, np.random.default_rng(seed)).verdict for seed in range(8)]
        assert found.count("undecided") <= 1, found


QUICK = [kind for kind in TOOL.KINDS if kind[0] not in ("scanner", "age and sex") and kind != ("chance", "")]


@pytest.mark.parametrize("kind", QUICK, ids=" ".join)
def test_verdicts_are_rarely_false_whatever_the_number_of_patients(kind):
    """20 studies: a law that is false in 2.5 % is false in more than 3 of them once in 700 times."""
    for patients, studies in ((30, 20), (100, 20)):
        row = TOOL.row_of(kind, patients, TOOL.judge(studies, (kind, patients)))
        assert row["false"] * studies <= 3, row


def test_few_patients_of_a_sound_network_leave_questions_open_and_many_do_not():
    undecided = [TOOL.row_of(("other ear", ""), patients, TOOL.judge(20, (("other ear", ""), patients)))["undecided"]
                 for patients in (30, 300)]
    assert undecided[0] > 0.5 > 0.15 > undecided[1]


def test_an_auroc_that_no_resample_changes_does_not_pass_with_few_patients():
    """Perfectly separated before and after: the bootstrap has no spread, though 30 patients cannot exclude a fall of 0.05."""
    ears = TOOL.drawn(30, np.random.default_rng(0))
    few, _ = PairedScores.from_ears(ears.assign(score=ears.y * 0.9), n_resamples=50).compare("same", ears.y.to_numpy() * 0.8)
    assert few.verdict == "undecided" and few.low < -0.05
    ears = TOOL.drawn(few.patients_to_decide + 20, np.random.default_rng(0))
    enough, _ = PairedScores.from_ears(ears.assign(score=ears.y * 0.9), n_resamples=50).compare("same", ears.y.to_numpy() * 0.8)
    assert enough.verdict == "ok"


def test_audits_without_enough_ears_of_a_class_give_no_figure():
    ears = TOOL.drawn(30, np.random.default_rng(0))
    few = ears[(ears.y == 1) | ((ears.y == 0).cumsum() <= 4)].reset_index(drop=True)
    scores = PairedScores.from_ears(few, n_resamples=50)
    for found in (audit_chance(few, permutations=20), scores.compare("inverted", 1 - few.score.to_numpy())[0]):
        assert found.verdict == "undecided" and "ears of the rarer class: 4" in found.explanation and np.isnan(found.estimate)
        assert found.summary == f"{found.figure} –; {found.explanation}"


def test_an_audit_without_a_figure_says_how_many_patients_it_takes_if_that_can_be_told():
    some = Audit.undecided("?", "f", "only 4 exams", patients=30, found=4)
    assert some.patients_to_decide == 75 and "about 75 patients like the 30 here would be enough" in some.explanation
    assert Audit.undecided("?", "f", "none", patients=30, found=0).patients_to_decide is None


def test_verdicts_are_counted_the_gravest_first_and_rows_tell_the_patients():
    wide, narrow = (Audit.from_interval("?", "f", Interval(0.5, 0.5 - reach, 0.5 + reach), thresholds="scanner", patients=50,
                                        explanation="") for reach in (0.2, 0.05))
    assert count_verdicts([wide.verdict, narrow.verdict, "ok"]) == {"wrong": 0, "look": 0, "undecided": 1, "ok": 2}
    assert wide.to_row()["patients_to_decide"] == 50 * 16 and narrow.to_row()["patients_to_decide"] is None


def test_the_documented_thresholds_are_those_of_the_code():
    text = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    for name, law in THRESHOLDS.items():
        (row,) = re.findall(rf"^\|.*\| `{name}` \|(.*)\|$", text, flags=re.M)
        assert [cell.strip() for cell in row.split("|")] == list(law.words.values())

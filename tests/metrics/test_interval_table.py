"""An interval in words says that there is none, where equal ends would read as certain."""
import math

import numpy as np
import pytest

from medical_fenlei.metrics.bootstrap import PatientBootstrap
from medical_fenlei.metrics.interval_table import interval_table, interval_words


@pytest.mark.parametrize(("low", "high", "words"), [
    (0.41234, 0.8, "0.412 to 0.800"), (-0.0001, 0.25, "0.000 to 0.250"), (0.9996, 1.0, "1.000 to 1.000"),
    (0.5, 0.5, "no interval"), (math.nan, math.nan, "no interval"), (None, None, "no interval"), (0.5, math.nan, "no interval"),
])
def test_two_equal_or_undefined_ends_are_no_interval(low, high, words):
    assert interval_words(low, high) == words


def test_a_measure_that_is_the_same_in_every_resample_has_no_interval_in_the_table():
    right = np.tile([1.0, 0.0], 20)                              # one ear of each patient: the share is 1/2 in any draw
    found = PatientBootstrap(patient=np.repeat(np.arange(20), 2), observations=right, n_resamples=20).intervals(
        lambda weights: {"accuracy": weights @ right / weights.sum(1)})
    row, = interval_table(found).to_dict("records")
    assert row["95 % interval"] == "no interval" and "same in every resample" in row["note"] and row["estimate"] == "0.500"

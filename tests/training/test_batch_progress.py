"""A long epoch says in the log how much of it is left, by the speed of this process; a short one says nothing."""
import logging

import pytest

from medical_fenlei.log import LOG
from medical_fenlei.training.batch_progress import LINE_SECONDS, BatchProgress, in_words


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(LOG, "propagate", True)
    with caplog.at_level(logging.INFO, LOG.name):
        yield caplog


def run_through(seconds, *, total, first=0.0, stop=None, **options):
    """Run the batches of a name that take so many seconds each, the first one `first` seconds more."""
    at = [1000.0]
    with BatchProgress("epoch 3", total, clock=lambda: at[0], **options) as progress:
        for n in range(options.get("done", 0), total if stop is None else stop):
            at[0] += seconds + (first if n == options.get("done", 0) else 0)
            progress.update()


def test_a_long_epoch_says_every_five_minutes_what_is_left_of_it_and_of_all(lines):
    run_through(5.0, total=480, later=2 * 480, last="epoch 5", stop=125)
    assert lines.messages == ["epoch 3: 60 of 480 batches; 35 min left, about 1 h 55 min until epoch 5 ends",
                     "epoch 3: 120 of 480 batches; 30 min left, about 1 h 50 min until epoch 5 ends"]


def test_a_short_epoch_and_the_last_batch_say_nothing(lines):
    run_through(LINE_SECONDS / 11, total=10)
    run_through(LINE_SECONDS, total=1)
    run_through(LINE_SECONDS - 1, total=2)
    assert lines.messages == []


def test_without_later_batches_only_these_are_estimated(lines):
    run_through(100.0, total=7)
    assert lines.messages == ["epoch 3: 3 of 7 batches; 7 min left", "epoch 3: 6 of 7 batches; 2 min left"]


def test_a_slow_first_batch_and_those_of_an_earlier_process_are_not_taken_for_the_speed(lines):
    run_through(60.0, total=20, done=10, first=1000.0)
    assert lines.messages == ["epoch 3: 12 of 20 batches; 8 min left", "epoch 3: 17 of 20 batches; 3 min left"]


def test_times_are_given_to_the_minute():
    assert [*map(in_words, (0, 29, 91, 3569, 3571, 11400))] == ["1 min", "1 min", "2 min", "59 min", "1 h 0 min", "3 h 10 min"]

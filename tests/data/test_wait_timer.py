"""The time that a network waits for its ears, without the time that it computes."""
import time

import pytest
import torch

from medical_fenlei.data.wait_timer import WaitTimer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_waiting_counts_and_computing_does_not():
    def slow():
        for n in range(3):
            time.sleep(0.05)
            yield n

    waiting = WaitTimer(CPU)
    for _ in waiting.timed(slow()):
        time.sleep(0.1)
    assert 0.15 <= waiting.seconds < 0.3
    assert list(WaitTimer(CPU).timed(iter(()))) == []


def test_on_a_gpu_waiting_is_the_time_that_the_network_is_idle(monkeypatch):
    clock = [0]                                                                          # ms, of the network's stream

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def elapsed_time(self, other):
            return other.at - self.at

        def synchronize(self):
            pass

    class Stream:
        def record_event(self, event):
            event.at = clock[0]
            return event

    def feed():
        for n in range(3):
            time.sleep(0.05)                                                             # the loop waits, the network works
            clock[0] += 4                                                                # the network waits for the copy
            yield n

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    waiting = WaitTimer(GPU)
    for _ in waiting.timed(feed()):
        clock[0] += 100
    assert waiting.seconds == pytest.approx(0.012)

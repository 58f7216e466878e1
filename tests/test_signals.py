"""A signal that asks for a stop arrives, whatever swallows its interrupt, and costs no item."""
import signal
import subprocess
import sys

import pytest
from helpers.commands import ROOT

SCRIPT = """
import os, signal, sys, time
from medical_fenlei import cli
from medical_fenlei.errors import Rejected
from medical_fenlei.parallel import map_items

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)

def in_a_destructor():
    item = Destroyed()
    del item

def swallowed():
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
    except BaseException:
        pass

def taken_for_a_bad_item():
    try:
        swallowed()
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
    except BaseException:
        raise Rejected("odd") from None

def in_a_cycle():
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
    except BaseException as error:
        kept.append(error)

def nothing():
    pass

kept, done = [], []

def item(number):
    if number == 3:
        {how}()
    return number

def items():
    for outcome in map_items(item, range(1000), workers=1, label="numbers"):
        done.append(outcome)
    return 0

def no_items():
    {how}()
    for _ in range(200):
        time.sleep(0.01)
        done.append(1)
    return 0

def last():
    {how}()
    return 0

status = cli.run({main})
print(status, len(done), [outcome.reason for outcome in done if not isinstance(outcome, int) and not outcome.ok])
"""


def ran(how, main, name="SIGTERM", ignored=()):
    """Run the script; return its exit status, the number of finished items, the reasons of the bad ones, and what it said."""
    def ignore():
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    said = subprocess.run([sys.executable, "-c", SCRIPT.format(how=how, main=main, name=name)], capture_output=True, text=True,
                          cwd=ROOT, preexec_fn=ignore, timeout=60)
    status, number, reasons = said.stdout.rstrip().split(" ", 2)
    return int(status), int(number), reasons, said.stderr


HOW = ("in_a_destructor", "swallowed", "taken_for_a_bad_item", "in_a_cycle")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
@pytest.mark.parametrize("how", HOW)
def test_an_interrupt_that_was_lost_in_an_item_is_raised_before_the_next_and_no_item_is_blamed(how, name):
    status, done, bad, said = ran(how, "items", name)
    assert (status, done, bad) == (75, 3, "[]") and "Traceback" not in said and "Exception ignored" not in said, said


@pytest.mark.parametrize("how", HOW[:3])
def test_an_interrupt_that_was_lost_elsewhere_is_raised_soon(how):
    status, done, _, said = ran(how, "no_items")
    assert status == 75 and done < 100, said


@pytest.mark.parametrize("how", HOW[:2])
def test_a_command_that_lost_an_interrupt_at_its_end_does_not_end_as_if_it_were_done(how):
    assert ran(how, "last", "SIGINT")[0] == 75


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(name):
    number = getattr(signal, name)
    assert ran("swallowed", "items", name, ignored=(number,))[:3] == (0, 1000, "[]")


def test_without_a_signal_nothing_changes():
    assert ran("nothing", "items") == (0, 1000, "[]", "")


STOP_REQUEST = """
import os, signal
from medical_fenlei.signals import StopRequest, stop_on_signals
stop_on_signals()
stop = StopRequest()
with stop.on_signals():
    os.kill(os.getpid(), signal.SIGTERM)
print(stop.received)
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_a_request_to_stop_is_not_heard_where_the_signal_is_ignored(ignored):
    said = subprocess.run([sys.executable, "-c", STOP_REQUEST], capture_output=True, text=True, cwd=ROOT,
                          preexec_fn=lambda: ignored and signal.signal(signal.SIGTERM, signal.SIG_IGN))
    assert said.stdout == f"{not ignored}\n", said.stderr

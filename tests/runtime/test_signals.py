"""Told to stop while starting: in whatever Python is doing, and however often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BEGIN = """
import os, signal, sys
from broker.runtime import signals
def told(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
"""


def run(*lines: str) -> tuple[int, str]:
    """(exit code, what it printed) of a process that runs these lines."""
    program = BEGIN + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", ["signal.SIGTERM", "signal.SIGINT"])
def test_a_signal_ends_the_process_with_code_0_and_what_was_begun_is_undone(number):
    lines = (
        "signals.obey([])",
        "try:",
        f"    told({number})",
        "    print('went on')",
        "finally:",
        "    print('undone')",
    )
    assert run(*lines) == (0, "undone\n")


def test_a_second_signal_does_not_break_off_the_tidying():
    lines = ("signals.obey(['--port', '1'])", "try:", "    told()", "finally:", "    told()", "    print('undone')")
    assert run(*lines) == (0, "undone\n")


def test_a_signal_while_garbage_is_collected_is_not_lost():
    lines = (
        "class Garbage:",
        "    def __del__(self):",
        "        told()",
        "signals.obey([])",
        "Garbage()",
        "print('dropped')",
        "signals.check()",
        "print('serving')",
    )
    assert run(*lines) == (0, "dropped\n")


def test_around_an_event_loop_a_signal_is_noted_and_raises_nothing():
    lines = ("signals.obey([])", "signals.hold()", "print(signals.received())", "told()", "print(signals.received())")
    assert run(*lines) == (0, "False\nTrue\n")


def test_once_it_is_ending_no_signal_changes_the_code():
    assert run("signals.obey([])", "signals.deaf()", "told()", "signals.leave(4)") == (4, "")


def test_an_ignored_signal_stays_ignored():
    lines = ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "signals.obey([])", "told(signal.SIGINT)", "print('on')")
    assert run(*lines) == (0, "on\n")


def test_breaking_off_a_subcommand_is_no_success():
    assert run("signals.obey(['drain', 'gpu-0'])", "told()", "print('on')") == (-15, "")

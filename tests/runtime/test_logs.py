"""One record, one line, whatever a client has put into it."""

from __future__ import annotations

import io
import logging

import pytest

from broker.runtime.logs import LineFormatter, setup_logging


def line(message: str = "job moved", **extra: object) -> str:
    record = logging.getLogger("broker.x").makeRecord("broker.x", logging.INFO, "", 0, message, (), None, None, extra)
    return LineFormatter("broker").format(record)


def test_time_level_process_action_fields_message():
    text = line(action="moved", job_id="job-1", attempt=2, worker_id="", source=None, run_s=0.123456789)
    stamp, rest = text.split(" ", 1)
    assert rest == "info broker moved job_id=job-1 attempt=2 run_s=0.123457 job moved"
    assert len(stamp) == len("2026-01-01T00:00:00.000")


def test_without_an_action_the_loggers_name_stands_there():
    assert " info broker broker.x job moved" in line()


@pytest.mark.parametrize("hostile", ["two words", "line\nbreak", 'quote"', "a=b", "\x1b[31m", "\u2028", "tab\t"])
def test_a_value_cannot_break_or_forge_a_line(hostile):
    text = line(action="moved", note=hostile)
    assert len(text.splitlines()) == 1
    assert f"note={hostile!r} " in text


def test_a_traceback_follows_its_line():
    stream = io.StringIO()
    setup_logging("warning", "edge", stream)
    logger = logging.getLogger("http_edge.jobs.service")
    logger.info("not shown")
    try:
        raise ValueError("what happened")
    except ValueError:
        logger.exception("call failed", extra={"action": "call"})
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith(" error edge call call failed")
    assert lines[-1] == "ValueError: what happened"

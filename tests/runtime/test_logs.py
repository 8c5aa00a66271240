"""One record, one line, whatever a client has put into it."""

from __future__ import annotations

import io
import json
import logging

import pytest

from broker.runtime.logs import JsonFormatter, LineFormatter, setup_logging


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


# ---------------------------------------------------------------- JSON


def json_line(message: str = "job moved", **extra: object) -> str:
    record = logging.getLogger("broker.x").makeRecord("broker.x", logging.INFO, "", 0, message, (), None, None, extra)
    record.created = 1795899938.25
    return JsonFormatter("broker").format(record)


def test_a_json_line_has_the_fields_of_a_text_line():
    text = json_line(action="moved", job_id="job-1", attempt=2, worker_id="", source=None, run_s=0.125, names=("a", 1))
    assert json.loads(text) == {
        "time": "2026-11-28T21:05:38.250Z",
        "level": "info",
        "process": "broker",
        "logger": "broker.x",
        "action": "moved",
        "message": "job moved",
        "job_id": "job-1",
        "attempt": 2,
        "run_s": 0.125,
        "names": ["a", 1],
    }


@pytest.mark.parametrize("hostile", ["line\nbreak", 'quote"', "\u2028", "\ud800", "\x1b[31m", "春天"])
def test_a_value_cannot_break_or_forge_a_json_line(hostile):
    text = json_line(action="moved", note=hostile)
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert json.loads(text)["note"] == hostile


def test_odd_values_are_json_all_the_same():
    reported = json.loads(json_line(level="mine", nan=float("nan"), path=io.StringIO, time=3))
    assert (reported["level"], reported["level_"], reported["time_"], reported["nan"]) == ("info", "mine", 3, "nan")


def test_a_traceback_stands_in_its_json_line():
    stream = io.StringIO()
    setup_logging("warning", "edge", stream, log_format="json")
    try:
        raise ValueError("what happened")
    except ValueError:
        logging.getLogger("http_edge.jobs.service").exception("call failed", extra={"action": "call"})
    (text,) = stream.getvalue().splitlines()
    assert json.loads(text)["exception"].endswith("ValueError: what happened")

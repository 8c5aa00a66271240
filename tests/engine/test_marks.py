"""Fields that every line of a job bears, whoever writes it."""

from __future__ import annotations

import io
import logging

from broker.runtime.log_context import Marks
from broker.runtime.logs import LineFormatter


def test_lines_bear_the_jobs_fields_until_it_is_over():
    stream, marks = io.StringIO(), Marks()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("engine"))
    handler.addFilter(marks)
    logger = logging.Logger("a library")
    logger.addHandler(handler)
    logger.warning("before")
    marks.set(job_id="job-1", trace_id="")
    logger.warning("inside")
    logger.warning("of another", extra={"job_id": "job-2"})
    marks.set()
    logger.warning("after")
    before, inside, other, after = stream.getvalue().splitlines()
    assert "job_id=job-1" in inside
    assert "trace_id" not in inside
    assert "job_id=job-2" in other
    assert not any("job_id" in line for line in (before, after))

"""One log format for every process: `time level process action key=value ... message`, one line a record, on standard error; or the same
as JSON, one object a line, for programs that collect logs.

A record's fields come from `extra`; `action` names what happened and stands first, so that a person can grep for it and a test pick it.
Values with spaces, quotes or control characters are quoted, so a client's text can neither break a line nor forge one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from itertools import islice
from math import isfinite
from typing import Any, TextIO

#: How many fields a record has by itself; those from `extra` come behind them.
_OWN_FIELDS = len(logging.makeLogRecord({}).__dict__)

#: Set on a record by other formatters and handlers; not from `extra`.
_NOT_SHOWN = frozenset(("action", "message", "asctime", "color_message"))

#: What needs no quotes.
_PLAIN = re.compile(r"[!#-&(-<>-\[\]-~]+")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LineFormatter(logging.Formatter):
    """Formats one record as one line (a traceback follows on lines of its own)."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        line = f"{self._time(record.created)} {record.levelname.lower()} {self._process} {fields.get('action') or record.name}"
        for key, value in islice(fields.items(), _OWN_FIELDS, None):
            if key not in _NOT_SHOWN and value is not None and value != "":
                line += f" {key}={value if type(value) is int else _shown(value)}"
        line += " " + record.getMessage()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _time(self, created: float) -> str:
        second = int(created)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))
        return f"{self._stamp}.{int((created - second) * 1000):03d}"


class JsonFormatter(logging.Formatter):
    """Formats one record as one JSON object on one line, in ASCII: a client's text can neither break a line nor forge one."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        milliseconds = int(record.created * 1000) % 1000
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "action": str(fields.get("action") or ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for key, value in islice(fields.items(), _OWN_FIELDS, None):
            if key not in _NOT_SHOWN and value is not None and value != "":
                # A field of a name that every line has stands beside that.
                line[f"{key}_" if key in line else key] = _plain(value)
        return json.dumps(line)


def _plain(value: Any) -> Any:
    """The value as JSON has it: a number, true, false or a list of them, else text."""
    if isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return str(value)


def _shown(value: Any) -> str:
    """The value as one word, quoted when it is not one by itself."""
    if type(value) is float:
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)


def setup_logging(level: str, process: str, stream: TextIO | None = None, *, log_format: str = "text") -> None:
    """Send everything from `level` ("debug", "info", "warning", "error") up to `stream` (standard error), in this format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else LineFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # Nothing here shows the caller's line, thread or process: not looking them up halves the cost of a record.
    # (Documented: "Optimization" in the logging HOWTO.)
    logging._srcfile = None
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False

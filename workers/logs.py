"""Log lines of the workers' processes: time, level, process, what happened, and the line's `extra` fields as key=value."""

from __future__ import annotations

import logging
import sys

#: Attributes that every record has; the rest came in `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """One line a record, with its extra fields behind the message."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD and value not in ("", None)}
        shown = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        text = super().format(record)
        return f"{text} [{shown}]" if shown else text


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if any(char.isspace() for char in text) else text


def setup(process: str, level: str) -> None:
    """Log to stderr as `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

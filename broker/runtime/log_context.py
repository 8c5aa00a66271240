"""Log lines of the workers' processes, the engine's included: the service's one format."""

from __future__ import annotations

import logging
import threading

from broker.runtime.logs import setup_logging


class Marks(logging.Filter):
    """Filter that puts fields of the job at hand on every line of its thread, those of libraries too."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def set(self, **fields: str) -> None:
        """Put these fields, and no others, on every line of this thread that does not have them itself."""
        self._thread.fields = {name: value for name, value in fields.items() if value}

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        for name, value in getattr(self._thread, "fields", {}).items():
            record.__dict__.setdefault(name, value)
        return True


def mark_lines() -> Marks:
    """Install `Marks` for all lines of this process. Call it after `setup`."""
    marks = Marks()
    for handler in logging.getLogger().handlers:
        handler.addFilter(marks)
    return marks


def setup(process: str, level: str, log_format: str = "text") -> None:
    """Log to stderr as `process`; a level that does not exist is "info", a format that does not is "text"."""
    known = level if level in ("debug", "info", "warning", "error") else "info"
    setup_logging(known, process, log_format=log_format)

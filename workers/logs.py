"""Log lines of the workers' processes, the engine's included: the service's one format."""

from __future__ import annotations

from broker.wire.logs import setup_logging


def setup(process: str, level: str) -> None:
    """Log to stderr as `process`; a level that does not exist is "info"."""
    setup_logging(level if level in ("debug", "info", "warning", "error") else "info", process)

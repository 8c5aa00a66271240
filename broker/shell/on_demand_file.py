"""The file of models without workers: `<home>/on_demand_models`.

It is written when it changes, beside the journal and not in it: what is missing after a crash comes with the next worker's registration.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from broker.core.on_demand import OnDemand
from broker.runtime.log_actions import Action
from broker.wire.messages import OnDemandModel

logger = logging.getLogger(__name__)

_NAME = "on_demand_models"
#: Larger than any list of cards that a broker wrote.
_MAX_BYTES = 64 * 1024 * 1024


class OnDemandFile:
    """The file of one broker."""

    def __init__(self, home: Path, known: OnDemand) -> None:
        self._path = home / _NAME
        self._known = known
        self._written = known.revision

    def read(self) -> None:
        """Read the models that an earlier broker wrote; a file that cannot be read is logged, and counts as none."""
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
            models = msgspec.msgpack.decode(self._path.read_bytes(), type=list[OnDemandModel])
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self._failed("read", error)
            return
        self._known.restore(models)

    def look(self, now: float) -> None:
        """Write what is known, if that has changed."""
        if self._known.revision == self._written:
            return
        self._written = self._known.revision
        temporary = self._path.with_name(f".{_NAME}.new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.msgpack.encode([*self._known.known.values()]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            self._failed("written", error)

    def _failed(self, done: str, error: Exception) -> None:
        logger.warning(
            "models without workers are not kept",
            extra={"action": Action.ON_DEMAND, "error": f"{self._path} cannot be {done}: {error}"},
        )

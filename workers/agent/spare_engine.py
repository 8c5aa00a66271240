"""A second engine with its imports done, which takes the place of the engine when that ends: as many processes as that has.

Importing torch, diffusers and transformers is most of an engine's start. The spare is a child of the agent as every engine is, and has the
same device: nothing changes hands when it is taken but the first message, as it has its own socketpair and shared counters from its start.
It is started when the engine has its model in memory, so that the two never load beside each other. One that ends by itself (out of
memory, as a rule) is not replaced before the next engine is ready: a machine that is short of memory is not made shorter again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.agent.engine_group import EngineGroup
from workers.agent.engine_start import EngineStarter

logger = logging.getLogger(__name__)


class SpareEngine:
    """At most one engine that waits, out of this starter."""

    def __init__(self, starter: EngineStarter, models: Sequence[ModelCard]) -> None:
        self._starter = starter
        self._imports = ",".join(dict.fromkeys(f"{card.engine}:{card.pipeline}" for card in models))
        self._engine: EngineGroup | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process ids; none when there is no spare."""
        return self._engine.pids if self._engine is not None else ()

    def start(self) -> None:
        """Start one, unless there is one."""
        if self._engine is not None:
            return
        try:
            self._engine = self._starter.start(self._imports)
        except OSError as error:
            self._log_end(f"it could not be started: {error}")
            return
        logger.info("spare engine started", extra={"action": Action.SPARE_STARTED, "pid": self.pids[0]})

    def check(self, engine_pids: Sequence[int]) -> None:
        """Notice that it has ended. `engine_pids`: the engine beside it."""
        if self._engine is not None:
            self._engine.poll()
            if how := self._engine.first_end:
                self.end(engine_pids)
                self._log_end(how)

    def take(self) -> EngineGroup:
        """The engine, which is not the spare any more; a new one when there is none. Raises `OSError` when that cannot be started."""
        self.check(())
        engine, self._engine = self._engine, None
        return engine or self._starter.start()

    def end(self, engine_pids: Sequence[int]) -> None:
        """SIGKILL, if there is one; all that it has started ends with it, the engine does not."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.kill()
            engine.poll()
            engine.release(engine_pids)

    def _log_end(self, why: str) -> None:
        logger.warning("there is no spare engine", extra={"action": Action.SPARE_ENDED, "detail": why})

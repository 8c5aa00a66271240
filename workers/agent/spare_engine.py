"""A second engine process with its imports done, which takes the place of the engine when that ends.

Importing torch, diffusers and transformers is most of an engine's start. The spare is a child of the agent as every engine is, and sees the
same device: nothing changes hands when it is taken but the first message, as it has its own socketpair and shared words from its start.
It is started when the engine has its model in memory, so that the two never load beside each other. One that ends by itself (out of
memory, as a rule) is not replaced before the next engine is ready: a machine that is short of memory is not made shorter again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.agent.engine_process import EngineProcess
from workers.supervisor.exit_codes import describe_exit

logger = logging.getLogger(__name__)


class SpareEngine:
    """At most one process that waits. `environ` is the engines' environment."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], models: Sequence[ModelCard]) -> None:
        wanted = dict.fromkeys(f"{card.engine}:{card.pipeline}" for card in models)
        self._command = tuple(command)
        self._as_spare = (*command, "--spare", ",".join(wanted))
        self._environ = environ
        self._process: EngineProcess | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start one, unless there is one."""
        if self._process is not None:
            return
        try:
            self._process = EngineProcess(self._as_spare, self._environ)
        except OSError as error:
            self._say_gone(f"it could not be started: {error}")
            return
        logger.info("spare engine started", extra={"action": Action.SPARE_STARTED, "pid": self.pid})

    def check(self, engine_pid: int) -> None:
        """Notice that it has ended. `engine_pid`: the engine beside it, 0 for none."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            self.end(engine_pid)
            self._say_gone(describe_exit(code))

    def take(self) -> EngineProcess:
        """The process, which is not the spare any more; a new one when there is none. Raises `OSError` when that cannot be started."""
        self.check(0)
        process, self._process = self._process, None
        return process or EngineProcess(self._command, self._environ)

    def end(self, engine_pid: int) -> None:
        """SIGKILL, if there is one; all that it has started ends with it, the engine does not."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.poll()
            process.release(engine_pid)

    def _say_gone(self, why: str) -> None:
        logger.warning("there is no spare engine", extra={"action": Action.SPARE_ENDED, "detail": why})

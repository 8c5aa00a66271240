"""The engine process: `python -m workers.engine.loop --socket FD --words FD`, started by an agent and by nobody else.

It takes one `Setup`, then one job after another, and answers each exactly once. The main thread computes; a second thread reads the
socketpair, so that the end of the stream (the agent has gone) ends the process at once, in the middle of a job too. SIGTERM
and SIGINT, which a terminal or a process manager sends to the whole group, are ignored: the agent decides. On Linux the kernel
kills an engine whose agent dies, which also covers a main thread that holds the interpreter lock.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard, Result, decode_spec, trace_id_of
from workers import logs
from workers.engine.base import Engine
from workers.engine.errors import EngineError
from workers.engine.failures import classify
from workers.engine.monitor import Cancelled, Monitor
from workers.engine.registry import Registry
from workers.ipc import (
    Channel,
    IpcError,
    JobCancelled,
    JobFailed,
    JobFinished,
    LoadFailed,
    Ready,
    RunJob,
    Setup,
    ToEngine,
    Words,
)

logger = logging.getLogger(__name__)

#: Exit statuses: the agent has gone; it does not speak our protocol; the model cannot be loaded; the device is lost.
EXIT_DONE, EXIT_PROTOCOL, EXIT_LOAD_FAILED, EXIT_DEVICE_LOST = 0, 64, 65, 66

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

Ending = JobFinished | JobFailed | JobCancelled


class Loop:
    """Answers the messages of one agent. Ends by `os._exit` in the reader thread, or by returning an exit status from `run`."""

    def __init__(self, channel: Channel, words: Words, marks: logs.Marks | None = None) -> None:
        self._channel = channel
        self._words = words
        self._marks = marks or logs.Marks()
        self._inbox: queue.SimpleQueue[Struct] = queue.SimpleQueue()
        self._cards: dict[str, ModelCard] = {}
        self._registry: Registry | None = None

    def run(self) -> int:
        """Serve until the agent closes its end."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        setup = self._inbox.get()
        if not isinstance(setup, Setup):
            return EXIT_PROTOCOL
        self._cards = {card.name: card for card in setup.models}
        self._registry = Registry(setup)
        answer = self._preload(self._registry, setup.preload)
        self._channel.send(answer)
        if isinstance(answer, LoadFailed):
            return EXIT_LOAD_FAILED
        while True:
            message = self._inbox.get()
            if not isinstance(message, RunJob):
                return EXIT_PROTOCOL
            self._marks.set(job_id=message.job_id, trace_id=trace_id_of(message.body))
            logger.info("job begins", extra={"action": "run_job", "fence": message.fence})
            ending = self._run_job(self._registry, message)
            self._marks.set()
            self._channel.send(ending)
            if isinstance(ending, JobFailed) and ending.fatal:
                return EXIT_DEVICE_LOST

    def _read(self) -> None:
        status = EXIT_DONE
        try:
            while (message := self._channel.receive()) is not None:
                self._inbox.put(message)
        except IpcError:
            logger.exception("the agent sent garbage", extra={"action": "protocol_error"})
            status = EXIT_PROTOCOL
        except OSError:
            pass
        os._exit(status)

    def _preload(self, registry: Registry, name: str) -> Ready | LoadFailed:
        self._words.begin(0)
        self._words.report("load", 0, 0)
        started = time.monotonic()
        try:
            card = self._cards.get(name)
            if card is None:
                raise EngineError(f"model {name!r} is not one of {', '.join(self._cards) or 'none'}")
            registry.engine(card).load(card)
        except Exception as error:  # the process's outermost loop: whatever a library raises is the agent's to hear
            logger.exception("the model cannot be loaded", extra={"action": "load_failed", "model": name})
            return LoadFailed(model=name, message=classify(error, "load").message)
        self._words.set_memory(*registry.meter.used_and_total_mb())
        return Ready(model=name, load_s=time.monotonic() - started)

    def _run_job(self, registry: Registry, job: RunJob) -> Ending:
        self._words.begin(job.fence)
        try:
            spec = decode_spec(job.body)
        except ValueError as error:
            return JobFailed(
                fence=job.fence, kind="invalid_input", message=f"the job spec cannot be read: {error}"[:2000]
            )
        card = self._cards.get(spec.model)
        if card is None:
            message = f"model {spec.model[:256]!r} is not one of {', '.join(self._cards)}"
            return JobFailed(fence=job.fence, kind="engine_error", message=message)
        try:
            engine = registry.engine(card)
        except Exception as error:  # the process's outermost loop
            return self._failed(job, None, error, "load")
        return self._draw(engine, card, spec, job, Monitor(self._words, job.fence, spec.num_outputs, registry.meter))

    def _draw(self, engine: Engine, card: ModelCard, spec: JobSpec, job: RunJob, monitor: Monitor) -> Ending:
        try:
            monitor.check()
            artefacts = engine.run(card, spec, Path(job.out_dir), monitor, job.profile)
            result = Result(
                artefacts=artefacts,
                stage_durations=monitor.stage_durations(),
                peak_memory_mb=round(monitor.peak_memory_mb(), 1),
                seed=spec.seed,
            )
            ending: Ending = JobFinished(fence=job.fence, result=result, run_s=monitor.run_s(), model=engine.loaded())
        except Cancelled:
            ending = JobCancelled(fence=job.fence, model=engine.loaded())
        except Exception as error:  # the process's outermost loop
            ending = self._failed(job, engine, error, monitor.phase)
        if isinstance(ending, JobFailed) and ending.fatal:
            return ending  # the device is not to be asked anything any more
        if isinstance(ending, JobFailed) and ending.kind == "out_of_memory":
            engine.reclaim()
        monitor.report_memory()
        return ending

    def _failed(self, job: RunJob, engine: Engine | None, error: Exception, phase: str) -> JobFailed:
        verdict = classify(error, phase)
        log = {"action": "job_failed", "job_id": job.job_id, "fence": job.fence, "kind": verdict.kind, "phase": phase}
        # A refused input is the client's affair and needs no traceback of ours.
        logger.error("job failed: %s", verdict.message, exc_info=verdict.kind != "invalid_input", extra=log)
        _forget_frames(error)
        loaded = engine.loaded() if engine else ""
        return JobFailed(fence=job.fence, kind=verdict.kind, message=verdict.message, fatal=verdict.fatal, model=loaded)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: their tensors fill the memory that the next job needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _become_a_child_engine() -> None:
    """Leave signals to the agent, die with it, and be found by name in `ps` and `top`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NAME, b"zoetrope-engine", 0, 0, 0)
    # Threads that wait for their siblings must sleep: spinning, they starve the one that has yet to work. With one more busy
    # process on two cores, a job on the CPU took 15 times as long. Read when torch loads its OpenMP, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Bars and warnings of these libraries are noise in a log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str]) -> int:
    """Run the engine on inherited descriptors; returns the exit status."""
    parser = argparse.ArgumentParser(prog="workers.engine.loop", description="One engine. Started by its agent.")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socketpair's end")
    parser.add_argument("--words", type=int, required=True, help="descriptor of the shared words")
    options = parser.parse_args(argv)
    _become_a_child_engine()
    logs.setup("engine", os.environ.get("ZOETROPE_LOG_LEVEL") or "info")
    logging.captureWarnings(True)
    loop = Loop(Channel(socket.socket(fileno=options.socket), ToEngine), Words(options.words), logs.mark_lines())
    try:
        return loop.run()
    except ConnectionError:
        return EXIT_DONE


if __name__ == "__main__":
    # os._exit: a lost device, or a reader that waits, must not hold up the interpreter's own end.
    status = main(sys.argv[1:])
    logging.shutdown()
    os._exit(status)

"""The engine process: `python -m workers.engine.loop --socket FD --words FD`, started by an agent alone.

It takes one `Setup` (a spare does its imports before that comes), then one job after another, and answers each exactly once (`runner`).
The main thread computes, and a second one beside it (`runner`); another reads the socketpair, so that the end of the stream (the agent has
gone) ends the process at once, in the middle of a job too. SIGTERM and SIGINT, which a terminal or a process manager sends to the whole
group, are ignored: the agent decides. On Linux the kernel kills an engine whose agent dies, which also covers a main thread that holds the
interpreter lock.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from broker.runtime import log_context
from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.engine.errors import EngineError
from workers.engine.failures import classify
from workers.engine.packages import leave_out
from workers.engine.progress import Monitor
from workers.engine.rank import own_rank
from workers.engine.registry import Registry, import_engines
from workers.engine.runner import Runner
from workers.ipc.channel import Channel, IpcError
from workers.ipc.messages import ENGINE_WITHOUT, LoadFailed, Ready, RunJob, Setup, ToEngine
from workers.ipc.shared import SharedCounters

logger = logging.getLogger(__name__)

#: Exit statuses: the agent has gone; its protocol is another; the model cannot be loaded; the device is lost.
EXIT_DONE, EXIT_PROTOCOL, EXIT_LOAD_FAILED, EXIT_DEVICE_LOST = 0, 64, 65, 66

_OOM_SCORE, _OOM_SPARE = Path("/proc/self/oom_score_adj"), "1000"

#: Seconds for which one thread keeps the interpreter from another that waits for it.
SWITCH_S = 0.001

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


#: Of no job: a cancel and a wish to park name another.
_NO_FENCE = 2**63


class Loop:
    """Answers the messages of one agent. Ends by `os._exit` in another thread, or by returning an exit status from `run`."""

    def __init__(
        self,
        channel: Channel,
        counters: SharedCounters,
        marks: log_context.Marks | None = None,
        imports: Sequence[str] = (),
        meeting: int = -1,
    ) -> None:
        """`meeting`: descriptor of the socket at which rank 0 of a group listens for the others."""
        self._channel = channel
        self._sending = threading.Lock()
        self._counters = counters
        self._marks = marks or log_context.Marks()
        self._imports = imports
        self._meeting = meeting
        self._inbox: queue.SimpleQueue[Struct] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until the agent closes its end."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        setup = self._stand_by() if self._imports else self._inbox.get()
        if not isinstance(setup, Setup):
            return EXIT_PROTOCOL
        cards = {card.name: card for card in setup.models}
        try:
            rank = own_rank(os.environ, self._meeting)
        except EngineError as error:
            self._send(LoadFailed(model=setup.preload, message=str(error)))
            return EXIT_LOAD_FAILED
        registry = Registry(setup, rank)
        answer = self._preload(registry, cards, setup.preload)
        if rank is not None and rank.follows and isinstance(answer, Ready):
            return self._follow(registry)
        self._send(answer)
        if isinstance(answer, LoadFailed):
            return EXIT_LOAD_FAILED
        runner = Runner(
            registry,
            cards,
            self._counters,
            self._send,
            _lost,
            self._marks,
            overlap=setup.overlap,
            checkpoint_s=setup.checkpoint_s or math.inf,
        )
        # Threads hand the interpreter on when they wait; one that does not keeps the other from its next launch for at most this long.
        sys.setswitchinterval(SWITCH_S)
        if setup.overlap:
            threading.Thread(target=self._serve_aside, args=(runner,), name="second", daemon=True).start()
        return self._serve(runner)

    def _serve(self, runner: Runner) -> int:
        """Run jobs as they come. Two threads do: a job is prepared while the other's is denoised."""
        while True:
            message = self._inbox.get()
            if not isinstance(message, RunJob):
                return EXIT_PROTOCOL
            runner.run(message)

    def _follow(self, registry: Registry) -> int:
        """Draw along what rank 0 does, until the agent closes its end."""
        try:
            registry.follow(self._counters.slots[0], self._send)
        except Exception as error:  # the process's outermost loop: the other ranks cannot go on without this one
            unforeseen = not isinstance(error, EngineError)
            logger.error("%s", error, exc_info=unforeseen, extra={"action": Action.ENGINE_EXITED})
            return EXIT_DEVICE_LOST
        self._inbox.get()  # jobs are rank 0's alone
        return EXIT_PROTOCOL

    def _serve_aside(self, runner: Runner) -> None:
        status = EXIT_DONE
        try:
            status = self._serve(runner)
        except ConnectionError:
            pass
        except BaseException:
            logger.exception("a job's thread ended", extra={"action": Action.ENGINE_EXITED})
            status = 1
        logging.shutdown()
        os._exit(status)

    def _stand_by(self) -> Struct:
        """Import what the setup will request, and wait for that. Of all that run, nothing is missed less when memory is short."""
        own = _OOM_SCORE.read_text() if _OOM_SCORE.exists() else ""
        _set_oom_score(_OOM_SPARE)
        try:
            import_engines(self._imports)
        except Exception:  # the model's load fails of the same, and reports it
            logger.warning("a spare engine cannot do its imports", exc_info=True)
        setup = self._inbox.get()
        _set_oom_score(own)
        return setup

    def _send(self, message: Struct) -> None:
        """Send a message whole, from either thread."""
        with self._sending:
            self._channel.send(message)

    def _read(self) -> None:
        status = EXIT_DONE
        try:
            while (message := self._channel.receive()) is not None:
                self._inbox.put(message)
        except IpcError:
            logger.exception("the agent sent garbage", extra={"action": Action.PROTOCOL_ERROR})
            status = EXIT_PROTOCOL
        except OSError:
            pass
        os._exit(status)

    def _preload(self, registry: Registry, cards: dict[str, ModelCard], name: str) -> Ready | LoadFailed:
        slot = self._counters.slots[0]
        slot.begin(_NO_FENCE)
        slot.report("load", 0, 0)
        started = time.monotonic()
        try:
            card = cards.get(name)
            if card is None:
                raise EngineError(f"model {name!r} is not one of {', '.join(cards) or 'none'}")
            registry.load_signer()
            registry.meet()
            engine = registry.engine(card)
            engine.load(card, Monitor(slot, _NO_FENCE, 1, registry.meter))
        except Exception as error:  # the process's outermost loop: whatever a library raises is reported to the agent
            message = classify(error, "load").message
            if isinstance(error, EngineError) and error.elsewhere:
                # The rank that failed reports it, and then the agent ends all: an end before would be taken for the reason.
                self._inbox.get()
            # An error with our own explanation needs no traceback.
            unforeseen = not isinstance(error, EngineError)
            logger.error("%s", message, exc_info=unforeseen, extra={"action": Action.LOAD_FAILED, "model": name})
            return LoadFailed(model=name, message=message)
        slot.set_memory(*registry.meter.used_and_total_mb())
        return Ready(model=name, load_s=time.monotonic() - started)


def _set_oom_score(score: str) -> None:
    """Set the kernel's preference for ending this process when memory runs out. A process may always return to its former value."""
    with suppress(OSError):
        if score:
            _OOM_SCORE.write_text(score)


def _lost() -> None:
    """The device cannot be trusted any more: end the process, from whichever thread found out."""
    logging.shutdown()
    os._exit(EXIT_DEVICE_LOST)


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
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers.utils.import_utils").addFilter(_is_no_fallback)


def _is_no_fallback(record: logging.LogRecord) -> bool:
    """Without torchvision transformers reads pictures with Pillow, and logs it for each class. Where it cannot, that is an error."""
    return "requires torchvision (not installed); falling back" not in record.getMessage()


def main(argv: Sequence[str]) -> int:
    """Run the engine on inherited descriptors; returns the exit status."""
    parser = argparse.ArgumentParser(prog="workers.engine.loop", description="One engine. Started by its agent.")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socketpair's end")
    parser.add_argument("--words", type=int, required=True, help="descriptor of the shared counters")
    parser.add_argument(
        "--meeting", type=int, default=-1, help="descriptor of the socket at which rank 0 of a group listens"
    )
    parser.add_argument("--spare", default="", help="what to import before the setup comes: engine:pipeline,…")
    options = parser.parse_args(argv)
    _become_a_child_engine()
    log_context.setup(
        "engine", os.environ.get("ZOETROPE_LOG_LEVEL") or "info", os.environ.get("ZOETROPE_LOG_FORMAT") or "text"
    )
    logging.captureWarnings(True)
    leave_out(filter(None, os.environ.get(ENGINE_WITHOUT, "").split(",")))
    channel = Channel(socket.socket(fileno=options.socket), ToEngine)
    imports = options.spare.split(",") if options.spare else ()
    loop = Loop(channel, SharedCounters(options.words), log_context.mark_lines(), imports, options.meeting)
    try:
        return loop.run()
    except ConnectionError:
        return EXIT_DONE


if __name__ == "__main__":
    # os._exit: a lost device, or a reader that waits, must not hold up the interpreter's own end.
    status = main(sys.argv[1:])
    logging.shutdown()
    os._exit(status)

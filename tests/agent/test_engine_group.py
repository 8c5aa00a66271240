"""A group of engine processes as the agent reads it: which rank's message counts."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker.wire.failures import FailureKind
from tests.support.waiting import wait_until
from workers.agent.engine_group import EngineGroup
from workers.agent.engine_start import started
from workers.ipc.channel import IpcError
from workers.ipc.messages import JobFailed, LoadFailed, Ready

#: A rank: it sends one message, and stays.
_RANK = """
import os, socket, sys
from workers.ipc.channel import Channel
from workers.ipc.messages import *
from broker.wire.failures import FailureKind
sent = {"lost": JobFailed(fence=1, kind=FailureKind.ENGINE_CRASHED, message="another rank is gone", fatal=True),
        "memory": JobFailed(fence=1, kind=FailureKind.OUT_OF_MEMORY, message="memory ran out", fatal=True),
        "failed": JobFailed(fence=1, kind=FailureKind.ENGINE_ERROR, message="wrong"),
        "ready": Ready(model="m"), "load": LoadFailed(model="m", message="no file")}
sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--socket") + 1]))
Channel(sock, Ready).send(sent[os.environ["SENT"]])
sock.recv(1)
"""


@contextmanager
def group(*sent: str) -> Iterator[EngineGroup]:
    """A group whose ranks have each sent one of these."""
    environs = [{**os.environ, "SENT": name, "PYTHONPATH": ":".join(sys.path)} for name in sent]
    made = started([sys.executable, "-c", _RANK], environs)
    descriptors = [rank.fd for rank in made.open_ranks]
    try:
        wait_until(lambda: len(select.select(descriptors, [], [], 0)[0]) == len(sent))
        yield made
    finally:
        made.kill()
        wait_until(lambda: made.poll() is not None)
        made.release()


def test_why_a_rank_ends_counts_before_what_the_first_sees_of_it() -> None:
    with group("lost", "memory") as made:
        cause, seen = made.receive()
    assert isinstance(cause, JobFailed)
    assert (cause.kind, cause.message) == (FailureKind.OUT_OF_MEMORY, "rank 1 of 2: memory ran out")
    assert isinstance(seen, JobFailed)
    assert seen.message == "another rank is gone"


def test_the_first_reason_why_a_model_cannot_be_loaded_is_enough() -> None:
    with group("load", "load") as made:
        (failed,) = made.receive()
    assert isinstance(failed, LoadFailed)
    assert failed.message == "rank 0 of 2: no file"


@pytest.mark.parametrize("sent", ["ready", "failed"])
def test_what_is_not_for_a_rank_to_send_breaks_the_protocol_once_the_first_is_read(sent: str) -> None:
    with group("ready", sent) as made:
        messages = made.receive()
        assert next(messages) == Ready(model="m")
        with pytest.raises(IpcError, match="rank 1 of 2 sent"):
            next(messages)

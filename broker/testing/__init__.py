"""Stand-ins for tests and measurements: an archive in memory, a harness that drives the core by hand, an agent on a real socket.

`MemoryArchive` passes the same tests as the journal (`tests/journal/test_archive_conformance.py`) and costs no file. `CoreHarness` feeds
a core one message at a time on a clock that only the test moves, and checks the invariants after each. `FakeAgent` sends the wire
protocol of a worker over ZeroMQ and computes nothing. No file of the service imports this package.
"""

from broker.shell.lookups import look_up
from broker.testing.core_harness import START, CoreHarness, causes, feed, quiet_executor, sent
from broker.testing.fake_agent import FakeAgent
from broker.testing.memory_archive import MemoryArchive
from broker.testing.samples import EDGE, RESULT, UNIT, holding, peer_of, submission, submit_message, worker_info

__all__ = [
    "EDGE",
    "RESULT",
    "START",
    "UNIT",
    "CoreHarness",
    "FakeAgent",
    "MemoryArchive",
    "causes",
    "feed",
    "holding",
    "look_up",
    "peer_of",
    "quiet_executor",
    "sent",
    "submission",
    "submit_message",
    "worker_info",
]

"""What is no message, what another version sends, and who sends too much of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker.shell.net.peer_limits import BUDGET, MAX_PEERS
from broker.wire import codec
from broker.wire import messages as m

#: Messages of version 0.1.0, in hex.
OLD = dict(
    line.split() for line in (Path(__file__).parent.parent / "wire" / "golden_protocol_1.txt").read_text().splitlines()
)


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([b"junk"], "decode"),
        ([b"\xc1" * 5000], "decode"),
        ([b"", b"a"], "frames"),
        ([b"a", b"b", b"c"], "frames"),
        ([b"x"] * 200, "frames"),
        ([codec.encode(m.Heartbeat(seen=0, free=1)), b"body"], "frames"),
        ([codec.encode(m.Identify())], "decode"),
        ([codec.encode(m.Finished(job_id="job-1", fence=1, body=b"no result"))], "decode"),
    ],
)
def test_junk_is_counted_by_peer_and_kind_and_dropped(bench, frames, kind):
    bench.join(peer=b"evil")
    bench.wires.deliveries.clear()
    for _ in range(3):
        bench.wires.back.inbox.append([b"evil", *frames])
    bench.edge(m.GetPool(req=1))
    bench.run()
    assert dict(bench.limiter.by_kind) == {kind: 3}
    assert dict(bench.limiter.by_peer) == {b"bevil": 3}
    assert [type(message) for message in bench.sent()] == [m.Pool]


def test_a_connection_probe_is_nothing(bench):
    bench.wires.front.inbox.append([b"edge", b""])
    bench.run()
    assert not bench.limiter.by_kind
    assert bench.sent() == []


def test_peers_of_a_later_version_are_told_to_go_in_a_frame_of_theirs(bench):
    later = m.PROTOCOL + 1
    bench.wires.back.inbox.append([b"agent", codec.encode(m.Goodbye(v=later))])
    bench.wires.front.inbox.append([b"edge", codec.encode(m.GetPool(v=later, req=1))])
    bench.run()
    bye, rejected = (msgspec.msgpack.decode(frame) for _, frame in bench.wires.foreign)
    assert bye[:3] == ["bye", later, f"protocol {later}, this is {m.PROTOCOL}"]
    assert rejected[:5] == ["rejected", later, 1, "invalid", f"protocol {later}, this is {m.PROTOCOL}"]
    assert [peer for peer, _ in bench.wires.foreign] == [b"bagent", b"fedge"]
    assert bench.sent() == []
    assert dict(bench.limiter.by_kind) == {"version": 2}


def test_peers_of_version_0_1_0_are_told_to_go_in_words_that_they_read(bench):
    """Golden bytes of its messages: a header, and a body in a second frame."""
    for name in ("Hello", "Heartbeat", "Started"):
        bench.wires.back.inbox.append([b"agent", bytes.fromhex(OLD[name]), *([b"info"] if name == "Hello" else [])])
    for name in ("Submit", "GetJob", "Watch"):
        bench.wires.front.inbox.append([b"edge", bytes.fromhex(OLD[name]), *([b"spec"] if name == "Submit" else [])])
    bench.run()
    reported = [(peer, msgspec.msgpack.decode(frame)) for peer, frame in bench.wires.foreign]
    assert [words[:3] for peer, words in reported if peer == b"bagent"] == [
        ["bye", 1, f"protocol 1, this is {m.PROTOCOL}"]
    ] * 3
    assert [words for peer, words in reported if peer == b"fedge"] == [
        [
            "rejected",
            1,
            msgspec.msgpack.decode(bytes.fromhex(OLD[name]))[2],
            "invalid",
            f"protocol 1, this is {m.PROTOCOL}",
            0.0,
            0.0,  # which 0.1.0 does not know, and skips
        ]
        for name in ("Submit", "GetJob", "Watch")
    ]
    assert dict(bench.limiter.by_kind) == {"version": 6}
    assert bench.core.snapshot().workers == ()


def test_a_peer_that_sends_too_much_junk_is_cut_off_and_read_no_more(bench, caplog):
    bench.join(peer=b"evil")
    for _ in range(BUDGET - 1):
        bench.agent(m.Heartbeat(seen=0, free=1), peer=b"evil")
        bench.wires.back.inbox.append([b"evil", b"junk"])
    bench.run()
    while bench.run():
        pass
    assert bench.wires.back.cuts == 0
    heard = bench.metrics.received[m.Heartbeat]
    bench.wires.back.inbox.append([b"evil", b"junk"])
    for _ in range(50):
        bench.agent(m.Heartbeat(seen=0, free=1), peer=b"evil")
        bench.wires.back.inbox.append([b"evil", b"junk"])
    bench.agent(m.Heartbeat(seen=0, free=1), peer=b"good")
    bench.run()
    assert bench.wires.back.cuts == 1
    assert bench.limiter.by_kind["decode"] == BUDGET
    assert bench.metrics.received[m.Heartbeat] == heard + 1
    assert [worker.state for worker in bench.core.snapshot().workers] == ["suspect"]
    assert len([record for record in caplog.records if record.action == "cut_off"]) == 1


def test_junk_now_and_then_is_forgiven(bench):
    for _ in range(5 * BUDGET):
        bench.wires.front.inbox.append([b"edge", b"junk"])
        bench.run(seconds=1.0)
    assert bench.wires.front.cuts == 0


def test_junk_is_said_once_a_second_and_the_table_of_peers_is_bounded(bench, caplog):
    for number in range(MAX_PEERS + 50):
        bench.wires.front.inbox.append([b"%d" % number, b"junk"])
    while bench.run(seconds=0.01):
        pass
    assert bench.limiter.by_kind["decode"] == MAX_PEERS + 50
    assert len(bench.limiter.by_peer) == MAX_PEERS
    assert len([record for record in caplog.records if record.action == "invalid_message"]) == 1
    bench.wires.front.inbox.append([b"1", b"junk"])
    bench.run(seconds=5.0)
    last = [record for record in caplog.records if record.action == "invalid_message"][-1]
    assert last.suppressed == MAX_PEERS + 49

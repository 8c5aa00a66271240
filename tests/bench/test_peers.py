"""The comparison with other queues: its maths, its labels, and that no peer can hang or litter it. None of them is needed here."""

import ast
import contextlib
import importlib.util
from pathlib import Path

import msgspec
import psutil
import pytest

from bench.peers import peerkit, peerrun, peers, peertable, scenarios
from bench.peers.peer_ours import job_name, parse_name
from bench.peers.peerkit import BARE, Done, Start
from bench.peers.peerrun import Line, Order
from bench.peers.scenarios import Crash, Latency, Rate, Sizes, Survival, Waits
from bench.report.report import Flush
from bench.report.stats import summarise
from tests.bench.odd_peers import Forgetful, Quick

FLUSH = Flush(times=summarise([0.001]), filesystem="ext4")
SIZES = Sizes(jobs=20, repeats=2, seconds=0.1, patience_s=5.0, kept=60)


def values(report):
    return {metric.key: metric.value for metric in report.metrics}


def rate(*per_s):
    return Line(part="a", rate=Rate(per_s=list(per_s), jobs=10))


def latency(start, end):
    return Line(part="b", latency=Latency(start=summarise([start]), end=summarise([end])))


def row(peer, mode, *lines, label=""):
    return peertable.Row(peer=peer, mode=mode, label=label or peer, promise="when it is", lines=list(lines))


OURS = row(
    "zoetrope",
    "durable",
    Line(part="about", about="zoetrope 1"),
    rate(900.0),
    latency(0.001, 0.002),
    label="this broker",
)


def report_of(*rows):
    return peertable.report_of(rows, FLUSH, peers.PeersPlan(), ["a note"])


# ---------------------------------------------------------------- the table


def test_ours_stands_beside_the_fastest_of_all_and_of_like_durability():
    found = values(
        report_of(
            OURS,
            row("celery", "durable", rate(100.0, 300.0, 200.0)),
            row("jetstream", "default", rate(1_800.0), latency(0.0005, 0.0007)),
        )
    )
    assert found["celery_durable_per_s"] == 200.0
    assert found["celery_durable_ratio"] == 4.5
    assert found["jetstream_default_start_ratio"] == 0.5
    assert (found["fastest"], found["fastest_ratio"]) == ("jetstream, default", 0.5)
    assert (found["fastest_durable"], found["fastest_durable_ratio"]) == ("celery, durable", 4.5)


def test_without_others_there_is_no_fastest():
    found = values(report_of(OURS))
    assert found["zoetrope_durable_per_s"] == 900.0
    assert found["fastest"] is found["fastest_ratio"] is None


def test_a_row_has_its_versions_promise_and_figures_and_a_dash_for_what_was_left_out():
    crash = Crash(what="the process that runs the job", again_s=5.5, waited_s=6.0, starts=2, ended=True)
    waits = Waits(busy=0.66, offered=0.65, wait=summarise([0.01]), late_p99_s=0.2)
    theirs = row(
        "jetstream",
        "default",
        Line(part="about", about="nats-server 2.15.1"),
        rate(450.0),
        latency(0.0005, 0.002),
        Line(part="c", waits=waits),
        Line(part="d", crashes=[crash]),
        Line(part="e", missing="failed: it broke"),
    )
    report = report_of(OURS, theirs)
    ours, cells = report.grid.rows
    assert ours[0] == "this broker, durable (zoetrope 1)"
    assert cells == [
        "jetstream, default (nats-server 2.15.1)",
        "when it is",
        "–",
        "450 (2.0 x)",
        "0.500 / 0.500 (2 x)",
        "2.00 / 2.00",
        "66 %; 10.0 / 10.0",
        "5.50 s, 2 starts",
        "–",
    ]
    assert len(report.grid.head) == len(cells)
    assert report.warnings == [
        "jetstream, default: failed: it broke (e)",
        "jetstream, default: in c the worst 1 % of submits left 200 ms late",
        "a note",
    ]


def test_a_disk_that_was_slower_for_some_is_said_so():
    slow, fast = (msgspec.structs.replace(OURS, flush_s=seconds) for seconds in (0.004, 0.0004))
    (said, _) = report_of(slow, fast).warnings
    assert "0.400 to 4.00 ms" in said
    assert report_of(fast, fast).warnings == ["a note"]


def test_what_is_the_same_in_another_mode_says_so():
    report = report_of(OURS, row("jetstream", "durable", Line(part="d", same="as default")))
    assert report.grid.rows[1][7] == "as default"
    assert report.warnings == ["a note"]


@pytest.mark.parametrize(
    ("crash", "text"),
    [
        ({"again_s": 30.0, "starts": 2, "ended": True}, "30.0 s, 2 starts"),
        ({"again_s": 0.5, "starts": 2, "ended": False}, "0.500 s, 2 starts, not ended"),
        ({"again_s": None, "starts": 1, "ended": False}, "not within 35 s, 1 start"),
        ({"again_s": None, "starts": 1, "ended": False, "given_up": "it said so"}, "never: it said so"),
    ],
)
def test_what_became_of_a_killed_workers_job_is_said_in_words(crash, text):
    assert peertable.crash_text(Crash(what="the process", waited_s=35.0, **crash)) == text


def test_every_peer_says_what_its_modes_promise_and_ours_is_durable():
    assert list(peers.PEERS["zoetrope"].modes) == ["durable"]
    assert "not durable" in peers.PEERS["ray"].modes["default"]
    for peer in peers.PEERS.values():
        assert set(peer.crashes) <= set(peer.modes) <= {"default", "durable"}


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_every_peer_names_an_adapter_that_is_there(name):
    module, _, adapter = peers.PEERS[name].adapter.partition(":")
    # By its source: the package that it needs need not be installed.
    source = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    assert adapter in [node.name for node in source.body if isinstance(node, ast.ClassDef)]


def test_a_peer_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    missing = peers.Peer(adapter="bench.none:None", needs="no_such_package", label="Nobody", modes={"default": "never"})
    monkeypatch.setitem(peers.PEERS, "nobody", missing)
    lines = peers.lines_of(peers.PeersPlan(), "nobody", "default", "ae", tmp_path)
    assert (
        report_of(peers.row("nobody", "default", lines)).warnings[0]
        == "Nobody, default: not installed: pip install .[peers] (a, e)"
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("nats-server: v2.9.10", (2, 9, 10)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", (7, 0, 15)),
        ("nats-server: unknown", ()),
    ],
)
def test_servers_tell_their_versions(text, version):
    assert peerkit.version_in(text) == version


@pytest.mark.parametrize("seconds", [BARE, 0.0, 0.1, 4.0])
def test_our_jobs_carry_their_number_and_seconds_in_their_names(seconds):
    assert parse_name(job_name(1_000_007, seconds)) == (1_000_007, seconds)


# ---------------------------------------------------------------- the runs


def test_waits_and_the_busy_share_follow_from_the_times():
    submitted = {1: 10.0, 2: 10.5}
    starts = {1: [Start(10.1, 7)], 2: [Start(10.7, 8)]}
    found = scenarios.judge_waits(submitted, starts, {1: 10.2, 2: 11.0}, [0.0, 0.0])
    assert found.wait.max == pytest.approx(0.2)
    assert found.busy == pytest.approx((0.1 + 0.3) / scenarios.SLOTS)
    assert found.offered == pytest.approx(2 * scenarios.SLEEP_S / scenarios.SLOTS)


@pytest.fixture
def done(tmp_path, monkeypatch):
    made = Done(tmp_path / "done")
    monkeypatch.setenv(peerkit.DONE_VARIABLE, str(made.path))
    yield made
    made.close()


@pytest.fixture
def adapter(done, tmp_path):
    with contextlib.closing(Quick("default", tmp_path, done)) as made:
        yield made


def test_rate_and_latency_count_every_job(done, adapter):
    found = scenarios.rate(adapter, done, SIZES)
    assert (len(found.per_s), found.jobs) == (2, 20)
    assert min(found.per_s) > 0
    alone = scenarios.latency(adapter, done, SIZES)
    assert alone.start.count == alone.end.count > 0
    assert 0 < alone.start.p50 <= alone.end.p50


def test_a_killed_workers_job_is_followed_to_its_next_start(done, adapter):
    (crash,) = scenarios.crashes(adapter, done, SIZES)
    assert (crash.starts, crash.ended) == (2, True)
    assert 0 <= crash.again_s < SIZES.patience_s


def test_a_job_that_is_given_up_is_not_waited_for(done, tmp_path):
    with contextlib.closing(Forgetful("default", tmp_path, done)) as adapter:
        (crash,) = scenarios.crashes(adapter, done, SIZES)
    assert (crash.again_s, crash.starts) == (None, 1)
    assert "nothing runs it again" in crash.given_up


def test_what_survives_a_killed_queue_is_counted(done, adapter, monkeypatch):
    monkeypatch.setattr(scenarios, "QUIET_S", 0.2)
    found = scenarios.survival(adapter, done, SIZES)
    assert (found.acknowledged, found.out) == (SIZES.kept, SIZES.kept // 2)
    assert found.first_s >= 0
    none = scenarios.drained(done, range(5), 0.0)
    assert (none.out, none.first_s) == (0, None)


# ---------------------------------------------------------------- the process around them


def order(room, adapter, parts, module="tests.bench.odd_peers", mode="default"):
    return Order(adapter=f"{module}:{adapter}", mode=mode, parts=parts, room=str(room), sizes=SIZES)


def said(lines):
    return {line.part: line for line in lines}


def test_a_peer_that_breaks_or_is_absent_is_a_reason(tmp_path):
    broken = said(peerrun.measure(order(tmp_path, "Broken", "a")))
    assert broken["a"].missing == "failed: RuntimeError: no such thing"
    (tmp_path / "x").mkdir()
    absent = said(peerrun.measure(order(tmp_path / "x", "Absent", "ab")))
    assert absent["a"].missing == absent["b"].missing == "its server is not installed"


def test_a_peer_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    found = said(peerrun.measure(order(tmp_path, "Hanging", "ab"), limit_s=8.0))
    assert found["about"].about == "quick 1.0"
    assert found["a"].missing == found["b"].missing == "gave up after 8 s"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_our_own_adapter_runs_acknowledges_and_forgets_nothing(tmp_path):
    (tmp_path / "e").mkdir()
    found = said(
        peerrun.measure(order(tmp_path, "ZoetropeAdapter", "ab", module="bench.peers.peer_ours", mode="durable"))
        + peerrun.measure(order(tmp_path / "e", "ZoetropeAdapter", "e", module="bench.peers.peer_ours", mode="durable"))
    )
    assert found["about"].about.startswith("zoetrope ")
    assert min(found["a"].rate.per_s) > 0
    assert 0 < found["b"].latency.start.p50 <= found["b"].latency.end.p50
    assert isinstance(found["e"].survival, Survival)
    assert found["e"].survival.out == found["e"].survival.acknowledged == SIZES.kept


def test_an_order_travels_as_json(tmp_path):
    made = order(tmp_path, "Quick", "abcde")
    assert msgspec.json.decode(msgspec.json.encode(made), type=Order) == made

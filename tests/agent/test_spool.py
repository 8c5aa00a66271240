"""An agent that dies while a result waits for the depot: the next one of its name sends it, if it still counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result
from tests.agent.stage import EPOCH, FAR, RESULT, Stage, fence
from workers.agent import attempt_dirs, spooled_results
from workers.agent import effects as fx
from workers.agent.dirs import WorkerDirs
from workers.agent.spooled_results import SpooledResult
from workers.agent.worker_files import WorkerFiles
from workers.depot.input_cache import InputCache
from workers.depot.transfers import Transfers
from workers.supervisor.agent_policy import AgentPolicy

NOW = 1_000_000.0


def spooled(*counters: int) -> tuple[SpooledResult, ...]:
    """What the agent before left of these jobs."""
    return tuple(
        SpooledResult(
            message=m.Finished(job_id=f"j{counter}", fence=fence(counter), run_s=2.5, body=codec.encode_body(RESULT)),
            age_s=40.0,
            files=RESULT.artefacts,
        )
        for counter in counters
    )


def resumed(*counters: int, **policy: float) -> Stage:
    """A new agent that found the results of these jobs."""
    return Stage(dirs=FAR, left=spooled(*counters), **policy)


def test_what_is_kept_is_what_will_be_said() -> None:
    stage = Stage(dirs=FAR).busy(1)
    stage.pass_time(7.0)
    stage.finish(1)
    kept, put = stage.orders()
    stage.put(1)
    (said,) = stage.sent(m.Finished)
    assert isinstance(kept, fx.KeepResult)
    assert (replace(kept.message, free=said.free, age_s=said.age_s), kept.age_s) == (said, 7.0)
    assert put == fx.PutFiles("j1", fence(1), RESULT.artefacts)


def test_the_next_agent_says_that_it_holds_the_attempt_and_puts_its_files() -> None:
    stage = resumed(1, 2)
    stage.tick()
    (hello,) = stage.sent(m.Hello)
    assert [(held.job_id, held.fence, held.phase, held.age_s) for held in hello.held] == [
        ("j1", fence(1), "save", 40.0),
        ("j2", fence(2), "save", 40.0),
    ]
    assert hello.seen == fence(2)
    assert stage.effects(fx.PutFiles) == [], "there is no key to the depot yet"
    stage.broker(m.Welcome(epoch=EPOCH, depot_key="k"))
    assert stage.effects(fx.SetDepotKey)
    assert stage.effects(fx.PutFiles) == [
        fx.PutFiles("j1", fence(1), RESULT.artefacts, again=True),
        fx.PutFiles("j2", fence(2), RESULT.artefacts, again=True),
    ]
    stage.welcome()
    assert stage.effects(fx.PutFiles) == [], "once"
    stage.put(1)
    assert [message.fence for message in stage.sent(m.Finished)] == [fence(1)]
    stage.ack(1)
    assert stage.effects(fx.RemoveDir) == [fx.RemoveDir("j1", fence(1))]


def test_one_that_counts_no_more_goes_without_being_put() -> None:
    stage = resumed(1)
    stage.registered()
    stage.cancel(1)
    assert stage.orders() == [fx.Revoke(fence(1)), fx.RemoveDir("j1", fence(1)), fx.DiscardFiles("j1", fence(1))]
    assert stage.sent(m.Finished) == []


def test_the_next_job_is_drawn_meanwhile_and_a_repeated_order_finds_the_result() -> None:
    stage = resumed(1).idle()
    stage.run(1)
    assert (stage.sent(m.Refused), stage.effects(fx.StartJob)) == ([], [])
    stage.run(2)
    assert stage.effects(fx.StartJob)


def test_results_that_fill_the_spool_still_take_no_job() -> None:
    assert resumed(1, spool_bytes=2).idle().core.capacity.refusal_reason().endswith("wait to be put into the depot")


@pytest.mark.parametrize(
    "reported", [m.WorkerRejected(reason="another journal", remedy="anew"), m.Welcome(epoch=EPOCH - 1)]
)
def test_results_of_another_journal_do_not_keep_a_worker_from_coming_back(reported: m.Message) -> None:
    stage = resumed(1)
    stage.tick()
    if isinstance(reported, m.Welcome):
        stage.welcome()
    stage.broker(reported)
    assert fx.RemoveDir("j1", fence(1)) in stage.out
    assert stage.sent(m.Finished) == []


# ---------------------------------------------------------------- on disk


def leave(out_root: Path, counter: int, data: bytes = b"abc", *, keep: bool = True) -> m.Finished:
    """An attempt's directory as a dead agent leaves it."""
    directory = attempt_dirs.make(out_root, f"j{counter}", fence(counter))
    (directory / "video.mp4").write_bytes(data)
    file = Artefact(name="video.mp4", media_type="video/mp4", size=3, sha256="0" * 64)
    body = codec.encode_body(Result(artefacts=(file,), seed=5))
    message = m.Finished(job_id=f"j{counter}", fence=fence(counter), run_s=2.5, body=body)
    if keep:
        spooled_results.keep(out_root, message, NOW)
    return message


def test_results_are_found_the_oldest_first_and_all_else_is_removed(tmp_path: Path) -> None:
    whole = [leave(tmp_path, 2), leave(tmp_path, 1)]
    leave(tmp_path, 3, keep=False)  # killed while it was drawn
    leave(tmp_path, 4, b"ab")  # cut short
    (tmp_path / "j1" / "stray").write_bytes(b"x")
    (tmp_path / "stray").write_bytes(b"x")
    (damaged,) = (leave(tmp_path, 5),)
    (attempt_dirs.attempt_dir(tmp_path, damaged.job_id, damaged.fence) / ".result").write_bytes(b"\x93")
    other = leave(tmp_path, 6)
    os.rename(tmp_path / "j6", tmp_path / "j7")  # a directory of another name than its result's

    found = spooled_results.take_up(tmp_path, NOW + 9.0)
    assert [(one.message, one.age_s, [file.name for file in one.files]) for one in found] == [
        (message, 9.0, ["video.mp4"]) for message in reversed(whole)
    ]
    assert other not in [one.message for one in found]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        f"j{counter}/{fence(counter)}" for counter in (1, 2)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j1", "j2"]
    assert spooled_results.take_up(tmp_path, NOW) == spooled_results.take_up(tmp_path, NOW), (
        "it stays until it is acknowledged"
    )


def test_a_file_of_endless_nesting_does_not_keep_the_next_agent_from_starting(tmp_path: Path) -> None:
    message = leave(tmp_path, 1)
    directory = attempt_dirs.attempt_dir(tmp_path, message.job_id, message.fence)
    (directory / ".result").write_bytes(b"\x81\xa1x" + b"\x91" * 10_000 + b"\x00")
    assert spooled_results.take_up(tmp_path, NOW) == ()
    assert not directory.exists()


def test_a_result_of_another_protocol_is_not_sent_as_the_broker_would_dismiss_the_worker_for_it(tmp_path: Path) -> None:
    message = replace(leave(tmp_path, 1), v=m.PROTOCOL - 1)
    spooled_results.keep(tmp_path, message, NOW)
    assert spooled_results.take_up(tmp_path, NOW) == ()
    assert [*tmp_path.iterdir()] == []


def test_where_nothing_is_left_nothing_is_found(tmp_path: Path) -> None:
    assert spooled_results.take_up(tmp_path / "nowhere", NOW) == ()


def test_a_clock_that_was_set_back_makes_no_negative_age(tmp_path: Path) -> None:
    leave(tmp_path, 1)
    assert [one.age_s for one in spooled_results.take_up(tmp_path, NOW - 100.0)] == [0.0]


def files(home: Path, *, yields: bool = False) -> WorkerFiles:
    """A new agent's files, with a depot that is not asked."""
    dirs = WorkerDirs(artefacts=str(home / "a"), spool=str(home / "s"), inputs=str(home / "i"))
    return WorkerFiles(dirs, Transfers(NoDepot(), InputCache(home / "i", 1000)), yields=yields)


class NoDepot:
    key = ""


def test_the_spool_of_a_process_that_may_bear_the_name_is_left_alone(tmp_path: Path) -> None:
    leave(tmp_path / "s", 1, keep=False)
    assert files(tmp_path, yields=True).left == ()
    assert [*(tmp_path / "s").glob("*/*/video.mp4")]
    files(tmp_path)
    assert [*(tmp_path / "s").iterdir()] == []


def test_a_result_is_kept_where_the_next_agent_finds_it_and_one_that_cannot_be_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    message = leave(tmp_path / "s", 1, keep=False)
    agent = files(tmp_path, yields=True)
    agent.carry_out(fx.KeepResult(message, 5.0), AgentPolicy())
    agent.carry_out(fx.KeepResult(replace(message, fence=fence(2)), 5.0), AgentPolicy())
    assert [one.message for one in files(tmp_path).left] == [message]
    assert ["No such file" in record.detail for record in caplog.records] == [True]

"""Engines that crash, hang, cannot load, break the protocol or cannot be killed."""

from __future__ import annotations

import pytest

from broker.wire import messages as m
from tests.agent.stage import SETUP, Stage, fence
from workers.agent import effects as fx
from workers.agent.engine_life import TABLE, EngineLife
from workers.agent.errors import EngineStateError
from workers.ipc.messages import LoadFailed, Ready
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.messages import EngineReady, LoadTrouble

SEGFAULT = "killed by SIGSEGV"


def died(stage: Stage) -> float:
    """The engine dies; seconds until the next one is started."""
    stage.exited()
    if stage.effects(fx.StartEngine):
        return 0.0
    waited = 0.0
    while not stage.effects(fx.StartEngine):
        deadline = stage.core.engine_slot.engine.life.start_at
        assert deadline is not None
        waited += deadline - stage.now
        stage.tick(deadline - stage.now)
    return waited


def test_a_crash_fails_the_job_in_words_and_starts_the_next_engine() -> None:
    stage = Stage().busy()
    stage.words(1, "denoise", 3, 12)
    stage.exited(SEGFAULT)
    [failed] = stage.sent(m.Failed)
    assert (failed.kind, failed.free) == ("engine_crashed", 0)
    assert failed.message == "the engine ended in denoise, step 3 of 12: killed by SIGSEGV"
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.StartEngine(SETUP)]


def next_loading(stage: Stage) -> m.Loading | None:
    """What the next heartbeat says."""
    while not (beats := stage.sent(m.Heartbeat)):
        stage.tick(0.25)
    stage.out = []
    return beats[-1].loading


def test_what_keeps_an_engine_from_taking_a_job_is_told() -> None:
    stage = Stage().registered()
    began = stage.now
    next_loading(stage)
    stage.words(0, "warm_up", 1, 3)
    reported = next_loading(stage)
    assert reported == m.Loading(phase="warm_up", step=1, total=3, age_s=stage.now - began)
    assert stage.now > began
    stage.engine(Ready(model="demo", load_s=3.0))
    stage.words(0, "warm_up", 3, 3)
    assert next_loading(stage) is None
    # The next process begins with its load, whatever the last one showed.
    stage.exited(SEGFAULT)
    reported = next_loading(stage)
    assert reported is not None
    assert (reported.phase, reported.step, reported.total) == ("load", 0, 0)


def test_a_crash_without_a_job_is_nobody_s_failure() -> None:
    stage = Stage().idle().silence(1.0)
    stage.exited(SEGFAULT)
    assert stage.orders() == [fx.StartEngine(SETUP)]
    assert not stage.sent(m.Failed)
    assert [(beat.engine, beat.free, beat.model) for beat in stage.sent(m.Heartbeat)] == [("loading", 0, "")]


def test_a_job_that_the_engine_never_took_up_is_handed_back() -> None:
    stage = Stage().idle()
    stage.run(1)
    stage.words(0, "load")  # the words still show what was before
    stage.exited(SEGFAULT)
    [refused] = stage.sent(m.Refused)
    assert (refused.fence, refused.free, refused.age_s) == (fence(1), 0, 0.0)  # it was taken, so this is a loss
    assert SEGFAULT in refused.reason
    assert not stage.sent(m.Failed)
    assert fx.RemoveDir("j1", fence(1)) in stage.out


def test_back_off_grows_while_engines_die_young_and_is_forgotten_after_a_good_life() -> None:
    stage = Stage().registered()
    assert [died(stage) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    stage.engine(Ready(model="demo"))
    stage.silence(61.0, every=1.0)
    assert [died(stage) for _ in range(3)] == [0, 1, 2]


def test_a_finished_job_proves_an_engine() -> None:
    stage = Stage().registered()
    died(stage)
    assert died(stage) == 1
    stage.engine(Ready(model="demo"))
    stage.run(1)
    stage.finish()
    assert died(stage) == 0


def test_a_young_ready_engine_is_not_yet_proved() -> None:
    stage = Stage().registered()
    died(stage)
    stage.engine(Ready(model="demo"))
    assert died(stage) == 1


def test_enforced_cancels_do_not_slow_the_restart() -> None:
    stage = Stage().idle()
    for counter in range(1, 6):
        stage.run(counter)
        stage.words(counter, "denoise", 1, 10)
        stage.cancel(counter)
        stage.tick(2.0)
        stage.exited("killed by SIGKILL")
        assert stage.effects(fx.StartEngine)
        stage.engine(Ready(model="demo"))


def test_a_fatal_failure_waits_for_the_engine_s_own_end() -> None:
    stage = Stage().busy()
    stage.fail(kind="engine_crashed", message="illegal address", fatal=True)
    assert [failed.free for failed in stage.sent(m.Failed)] == [0]
    assert not stage.effects(fx.KillEngine)
    stage.exited("exit code 66")
    assert stage.effects(fx.StartEngine)
    assert not stage.sent(m.Failed)  # the job has its result already


def test_a_fatal_failure_of_an_engine_that_stays_is_helped_along() -> None:
    stage = Stage().busy()
    stage.fail(kind="engine_crashed", fatal=True)
    stage.tick(4.9)
    assert not stage.effects(fx.KillEngine)
    stage.tick(0.1)
    assert stage.effects(fx.KillEngine)


def test_a_fatal_failure_after_the_kill_changes_nothing() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.tick(2.0)
    stage.fail(kind="engine_crashed", fatal=True)
    stage.exited("killed by SIGKILL")
    assert stage.effects(fx.StartEngine)


def test_a_closed_socket_is_the_beginning_of_the_end() -> None:
    stage = Stage().idle()
    stage.closed()
    assert stage.core.capacity.free == 0
    stage.closed()
    stage.tick(5.0)
    assert stage.effects(fx.KillEngine)


def test_garbage_from_the_engine_is_its_end() -> None:
    stage = Stage().busy()
    stage.core.engine_closed(stage.now, "message of 4000000000 bytes")
    stage.exited("killed by SIGKILL")
    [failed] = stage.sent(m.Failed)
    assert failed.kind == "engine_crashed"


# ------------------------------------------------------------------ loading


def test_a_ready_engine_is_reported_to_the_supervisor() -> None:
    stage = Stage().registered()
    stage.engine(Ready(model="demo"))
    assert stage.effects(fx.Report) == [fx.Report(EngineReady())]


def test_a_model_that_cannot_be_loaded_is_reported_once_in_its_own_words() -> None:
    stage = Stage().registered()
    stage.engine(LoadFailed(model="demo", message="config.json is missing"))
    assert not stage.effects(fx.Report)
    assert [note.level for note in stage.effects(fx.Note)] == ["error"]
    stage.exited("exit code 65")
    assert stage.effects(fx.Report) == [
        fx.Report(LoadTrouble(message="model 'demo' cannot be loaded: config.json is missing"))
    ]
    assert stage.effects(fx.StartEngine)
    stage.exited("exit code 1")
    assert stage.effects(fx.Report) == [
        fx.Report(LoadTrouble(message="the engine ended before its model was loaded: exit code 1"))
    ]


def test_a_failing_load_is_visible_to_the_broker() -> None:
    stage = Stage().registered()
    for _ in range(2):
        stage.exited("exit code 65")
    stage.pass_time(0.3).tick()
    assert [beat.engine for beat in stage.sent(m.Heartbeat)] == ["restarting"]


def test_why_a_model_could_not_be_loaded_is_told_until_it_is() -> None:
    stage = Stage().registered()
    stage.engine(LoadFailed(model="demo", message="[models.demo] path: '/m' cannot be loaded: no weights"))
    stage.exited("exit code 65")
    for _ in range(2):  # while it waits for the next start, and while the next process loads
        reported = next_loading(stage)
        assert reported is not None
        assert reported.error == "[models.demo] path: '/m' cannot be loaded: no weights"
        stage.words(0, "load", 0, 0)
    stage.exited("exit code 1")
    reported = next_loading(stage)
    assert reported is not None
    assert reported.error == "the engine ended before its model was loaded: exit code 1"
    stage.tick(60.0)
    stage.welcome()  # silent for so long, it is asked to say who it is
    stage.engine(Ready(model="demo"))
    assert next_loading(stage) is None


def test_an_engine_whose_machines_are_not_all_there_is_not_started_and_says_so() -> None:
    stage = Stage()
    stage.core.engine_slot.engine.life.waits_for = "waiting for 1 of 2 machines"
    stage.registered()
    stage.pass_time(10_000.0).tick()  # no budget runs
    stage.welcome()
    reported = next_loading(stage)
    assert reported is not None
    assert reported.error == "waiting for 1 of 2 machines"
    assert not stage.effects(fx.StartEngine)
    stage.core.engine_slot.engine.life.waits_for = ""
    stage.tick()
    assert stage.effects(fx.StartEngine)


def test_a_machine_that_is_lost_while_the_model_is_loaded_is_no_trouble_with_loading() -> None:
    stage = Stage().registered()
    stage.core.engine_slot.engine.life.waits_for = "waiting for 1 of 2 machines"
    stage.exited("rank 1 of 2 (host-b): host-b is gone: no message for 6 s")
    assert not stage.effects(fx.Report)
    assert not stage.effects(fx.StartEngine)


def test_an_engine_that_died_after_it_was_ready_is_no_trouble_with_loading() -> None:
    stage = Stage().idle()
    stage.exited()
    assert not stage.effects(fx.Report)


def test_a_load_without_end_is_ended() -> None:
    stage = Stage(load_budget_s=100.0).registered()
    stage.silence(99.0)
    assert stage.core.engine_slot.engine.life.state == "loading"
    stage.tick(1.0)
    assert stage.effects(fx.KillEngine)
    stage.engine(Ready(model="demo"))  # too late
    assert stage.core.capacity.free == 0
    stage.exited("killed by SIGKILL")
    assert stage.effects(fx.Report) == [fx.Report(LoadTrouble(message="model 'demo' did not load in 100 s"))]


# ------------------------------------------------------------------ watchdog


def alive_until_killed(stage: Stage, limit_s: float) -> float:
    """Seconds of silence after which the engine is killed."""
    start = stage.now
    while stage.now < start + limit_s:
        stage.silence(1.0)
        if stage.effects(fx.KillEngine):
            return stage.now - start
    return float("inf")


@pytest.mark.parametrize(
    ("phase", "step", "budget_s"),
    [
        ("", 0, 300),
        ("load", 0, 1800),
        ("encode", 0, 300),
        ("denoise", 0, 300),
        ("denoise", 1, 30),
        ("decode", 2, 600),
        ("save", 2, 600),
        ("finished", 0, 600),
    ],
)
def test_each_phase_has_its_budget_of_silence(phase: str, step: int, budget_s: float) -> None:
    stage = Stage().busy()
    stage.words(1, phase, step, 12, tick=5)
    assert alive_until_killed(stage, 4000) == budget_s
    stage.exited("killed by SIGKILL")
    [failed] = stage.sent(m.Failed)
    assert failed.kind == "hung"
    assert failed.message.startswith("no sign of life in")


def test_five_steps_as_seen_are_allowed_for_when_they_are_longer_than_the_floor() -> None:
    stage = Stage().busy()
    stage.words(1, "denoise", 0, 40, tick=5)
    for step in range(1, 6):
        stage.silence(20.0)
        stage.words(1, "denoise", step, 40, tick=5 + step)
    assert alive_until_killed(stage, 200) == 100


def test_five_predicted_steps_before_the_first_one_was_seen() -> None:
    stage = Stage(first_step_budget_s=1.0).busy(predicted_s=4000.0)
    stage.words(1, "denoise", 0, 40, tick=5)
    assert alive_until_killed(stage, 1000) == 500


def test_a_prediction_that_is_far_off_keeps_no_stuck_engine_for_ever() -> None:
    stage = Stage().busy(predicted_s=1e6)
    stage.words(1, "denoise", 0, 10)
    stage.silence(3599.0, every=1.0)
    assert not stage.effects(fx.KillEngine)
    stage.silence(1.0)
    assert stage.effects(fx.KillEngine)


def test_signs_of_life_inside_a_step_keep_the_engine() -> None:
    stage = Stage().busy()
    for tick in range(200):
        stage.words(1, "denoise", 1, 2, tick=tick)
        stage.silence(10.0, every=1.0)
        assert not stage.effects(fx.KillEngine)


def test_a_hang_counts_against_the_engine() -> None:
    stage = Stage().busy()
    stage.silence(300.0)
    stage.exited("killed by SIGKILL")
    assert stage.effects(fx.StartEngine)
    stage.engine(Ready(model="demo"))
    assert died(stage) == 1


def test_the_pace_follows_the_steps_of_this_phase_alone() -> None:
    stage = Stage().busy()
    stage.words(1, "decode", 1, 4, tick=2)
    stage.pass_time(50.0).words(1, "decode", 2, 4, tick=3)  # decoded chunks are no steps
    stage.words(1, "denoise", 5, 10, tick=4)
    stage.pass_time(1.0).words(1, "denoise", 1, 10, tick=5)  # the next output begins
    stage.pass_time(4.0).words(1, "denoise", 3, 10, tick=6)
    [attempt] = stage.core.engine_slot.attempts
    assert attempt.predicted_step_s() == 2.0


# ------------------------------------------------------------------ unkillable


def test_a_process_that_survives_sigkill_gives_up_its_job_but_takes_no_other() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.tick(2.0)
    stage.silence(29.0)
    assert stage.core.capacity.held(stage.now)
    stage.silence(1.0)
    assert len(stage.core.unacked_results) == 1
    assert (stage.core.capacity.free, stage.core.engine_slot.engine.life.shown) == (0, "restarting")
    stage.silence(100.0)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.StartEngine(SETUP)]


def test_an_unkillable_engine_without_a_job_only_takes_no_more() -> None:
    stage = Stage(load_budget_s=1.0).registered()
    stage.silence(1.0)
    stage.silence(30.0)
    assert [note.action for note in stage.effects(fx.Note)] == ["engine_unkillable"]
    assert stage.core.capacity.free == 0


# ------------------------------------------------------------------ the table


def test_every_pair_that_the_table_lacks_raises() -> None:
    events = {event for row in TABLE.values() for event in row}
    for state, row in TABLE.items():
        for event in events - set(row):
            life = EngineLife(AgentPolicy(), 0.0)
            life.state = state
            with pytest.raises(EngineStateError, match=f"is {state}, it cannot {event}"):
                life._move(event)


def out_of_memory(stage: Stage, counter: int, job: str = "") -> None:
    stage.run(counter, job)
    stage.words(counter, "denoise", 1, 4)
    stage.fail(counter, "out_of_memory", message="no 20 GiB")


def test_an_engine_in_which_job_after_job_runs_out_of_memory_is_replaced() -> None:
    stage = Stage().idle()
    out_of_memory(stage, 1)
    assert not stage.effects(fx.KillEngine)
    out_of_memory(stage, 2)
    assert [effect.reason for effect in stage.effects(fx.KillEngine)] == ["2 jobs in a row ran out of memory"]
    assert [failed.kind for failed in stage.sent(m.Failed)][-1] == "out_of_memory"


def test_one_job_that_runs_out_of_memory_twice_is_too_large_and_costs_no_engine() -> None:
    stage = Stage().idle()
    out_of_memory(stage, 1, "large")
    out_of_memory(stage, 2, "large")
    assert not stage.effects(fx.KillEngine)


def test_jobs_that_are_all_too_large_do_not_cost_an_engine_each() -> None:
    """The engine loads for a minute; of what follows, at most one part in ten is loading."""
    stage = Stage().registered()
    kills = 0
    for counter in range(1, 150):
        stage.tick()
        if not stage.core.capacity.free:
            stage.silence(60.0, 1.0)
            stage.idle_again()
        out_of_memory(stage, counter)
        if stage.effects(fx.KillEngine):
            kills += 1
            stage.exited("killed by SIGKILL")
        stage.ack(counter)
        stage.silence(10.0, 1.0)
    assert kills == 2


def test_an_engine_that_leaks_again_is_replaced_again() -> None:
    stage = Stage().registered()
    stage.silence(60.0, 1.0)
    for counter in (1, 4):
        stage.idle_again()
        stage.run(counter)
        stage.words(counter, "denoise", 1, 4)
        stage.silence(20.0, 1.0)
        stage.finish(counter)
        stage.silence(600.0, 1.0)
        out_of_memory(stage, counter + 1)
        out_of_memory(stage, counter + 2)
        assert stage.effects(fx.KillEngine)
        stage.exited("killed by SIGKILL")
        stage.silence(60.0, 1.0)


# ------------------------------------------------------------------ one of several processes


def test_the_end_of_one_rank_kills_the_others_and_fails_the_job() -> None:
    stage = Stage().busy()
    stage.words(1, "denoise", 3, 12)
    how = "rank 1 of 2: killed by SIGKILL"
    stage.rank_ended(how)
    assert stage.orders() == [fx.KillEngine(how)]
    stage.exited(how)
    [failed] = stage.sent(m.Failed)
    assert (failed.kind, failed.message) == ("engine_crashed", f"the engine ended in denoise, step 3 of 12: {how}")
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.StartEngine(SETUP)]


def test_a_rank_that_cannot_be_killed_gives_up_its_job_and_keeps_the_group_from_starting() -> None:
    stage = Stage(unkillable_s=1.0).busy()
    stage.rank_ended("rank 0 of 2: killed by SIGSEGV")
    stage.tick(1.0)
    assert [failed.kind for failed in stage.sent(m.Failed)] == ["engine_crashed"]
    for _ in range(60):
        stage.silence(1.0)
        assert not stage.effects(fx.StartEngine)
    stage.exited("rank 0 of 2: killed by SIGSEGV")
    assert stage.effects(fx.StartEngine)


def test_ranks_that_were_killed_for_a_cancel_are_not_blamed() -> None:
    stage = Stage(cancel_grace_s=1.0).busy()
    stage.cancel(1, grace_s=1.0)
    stage.tick(1.0)
    assert [type(order) for order in stage.orders()] == [fx.KillEngine]
    stage.rank_ended("rank 0 of 2: killed by SIGKILL")
    assert stage.orders() == []
    stage.exited("rank 0 of 2: killed by SIGKILL")
    assert stage.sent(m.Cancelled)
    assert stage.effects(fx.StartEngine)  # at once: it was no fault of the engine

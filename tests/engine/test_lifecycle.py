"""How an engine process begins and ends. With the fake engine: these processes never load torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire.jobspec import JobSpec, ModelCard
from tests.engine.child import Child
from tests.engine.conftest import spec_for
from workers.engine.fake import DIE_STATUS
from workers.engine.loop import EXIT_DEVICE_LOST, EXIT_DONE, EXIT_LOAD_FAILED, EXIT_PROTOCOL
from workers.ipc.messages import JobFailed, JobFinished, LoadFailed, Ready
from workers.models.catalogue import card_for

CARD = card_for("fake")


@pytest.fixture
def child() -> Iterator[Child]:
    running = Child()
    yield running
    running.close()


def _ready(child: Child) -> Child:
    answer = child.setup(CARD)
    assert answer == Ready(model="fake", load_s=answer.load_s), answer  # type: ignore[attr-defined]
    return child


def _fake(behaviour: str, **extra: str | int | float) -> JobSpec:
    return spec_for(CARD, extra={"fake": behaviour, **extra})


def _card(**fields: str) -> ModelCard:
    return ModelCard(**{"name": "m", "engine": "fake", "output": "video", **fields})  # type: ignore[arg-type]


def test_agent_that_goes_ends_the_engine_in_the_middle_of_a_job(child: Child, tmp_path: Path) -> None:
    _ready(child).send(_fake("hang"), tmp_path)

    assert child.close() == EXIT_DONE


def test_agent_that_goes_before_setup_ends_the_engine(child: Child) -> None:
    assert child.close() == EXIT_DONE


def test_terminal_signals_are_the_agents_affair(child: Child, tmp_path: Path) -> None:
    _ready(child)
    fence = child.send(_fake("slow", fake_step_s=0.05), tmp_path)
    child.process.send_signal(signal.SIGTERM)
    child.process.send_signal(signal.SIGINT)

    assert isinstance(child.ending(fence), JobFinished)


@pytest.mark.parametrize(("behaviour", "status"), [("die", DIE_STATUS), ("segfault", -signal.SIGSEGV)])
def test_engine_that_dies_says_nothing(child: Child, tmp_path: Path, behaviour: str, status: int) -> None:
    _ready(child).send(_fake(behaviour), tmp_path)

    assert child.wait() == status
    assert child.channel.receive() is None


def test_lost_device_is_reported_and_ends_the_process(child: Child, tmp_path: Path) -> None:
    ending = _ready(child).run(_fake("poison"), tmp_path)

    assert isinstance(ending, JobFailed)
    assert (ending.kind, ending.fatal) == ("engine_crashed", True)
    assert child.wait() == EXIT_DEVICE_LOST


@pytest.mark.parametrize(
    ("card", "preload", "message"),
    [
        (_card(source="load_fail"), "m", "told not to load"),
        (_card(), "other", "'other' is not one of m"),
        (_card(engine="steam"), "m", "'steam' is not one of video, image, fake"),
        (_card(engine="video", source="/nowhere/at/all"), "m", "'/nowhere/at/all' is not there"),
    ],
    ids=["will not load", "unknown model", "unknown engine", "no directory"],
)
def test_model_that_cannot_be_preloaded(child: Child, card: ModelCard, preload: str, message: str) -> None:
    answer = child.setup(card, preload=preload)

    assert isinstance(answer, LoadFailed)
    assert answer.model == preload
    assert message in answer.message
    assert child.wait() == EXIT_LOAD_FAILED


def test_garbage_from_the_agent_ends_the_process(child: Child) -> None:
    child.sock.sendall(b"\x00\x00\x00\x02zz")

    assert child.wait() == EXIT_PROTOCOL


def test_log_of_a_failed_job_names_it_and_has_the_traceback(child: Child, tmp_path: Path) -> None:
    ending = _ready(child).run(_fake("fail"), tmp_path)
    child.sock.close()
    child.wait()

    assert isinstance(ending, JobFailed)
    assert (ending.kind, ending.message) == ("engine_error", "told to fail")
    log = child.log()
    assert "job_id=job-1" in log
    assert "Traceback" in log

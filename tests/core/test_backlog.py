"""What waits by model and class of workers, and models of which jobs are taken without a worker."""

from __future__ import annotations

import pytest

from broker.core.backlog import by_class, by_model
from broker.core.policy import Policy
from broker.core.pool import Worker
from broker.core.scheduling.queue import Lane
from broker.testing import CoreHarness, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.bodies import class_label
from broker.wire.jobspec import ModelCard


def worker(name, device="H100", gpus=1, models=("wan",), **changes):
    cards = tuple(ModelCard(name=model, engine="fake", output="video") for model in models)
    made = Worker(name, "b", name.encode(), m.WorkerInfo(device=device, gpus=gpus, models=cards), 0.0)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def counted(lanes, workers, known=()):
    """(model, class) -> (jobs, seconds, workers, busy)."""
    return {
        (one.model, one.label): (one.jobs, one.backlog_s, one.workers, one.busy)
        for one in by_class(lanes, workers, {model.card.name: model for model in known})
    }


H100, A100 = worker("h", "H100"), worker("a", "A100 40GB")
GROUP = worker("g", "H100", gpus=4)
REMEMBERED = m.OnDemandModel(card=ModelCard(name="wan", engine="fake", output="video"), device="L40S", size=2)


@pytest.mark.parametrize(
    ("lanes", "workers", "known", "expected"),
    [
        pytest.param({}, [H100], [], {("wan", "1x-h100"): (0, 0, 1, 0)}, id="nothing waits"),
        pytest.param(
            {Lane("wan", 1, ""): (3, 30.0), Lane("wan", 4, ""): (1, 99.0)},
            [H100, GROUP],
            [],
            {("wan", "1x-h100"): (3, 30.0, 1, 0), ("wan", "4x-h100"): (1, 99.0, 1, 0)},
            id="jobs for groups are counted apart",
        ),
        pytest.param(
            {Lane("wan", 1, ""): (3, 30.0)},
            [GROUP],
            [],
            {("wan", "4x-h100"): (3, 30.0, 1, 0)},
            id="small jobs count for large workers where there are no others",
        ),
        pytest.param(
            {Lane("wan", 1, ""): (3, 30.0)},
            [A100, H100, worker("h2")],
            [],
            {("wan", "1x-a100-40gb"): (0, 0, 1, 0), ("wan", "1x-h100"): (3, 30.0, 2, 0)},
            id="of equally large classes that with the most workers",
        ),
        pytest.param(
            {Lane("wan", 1, "a"): (1, 5.0), Lane("wan", 1, ""): (2, 20.0)},
            [A100, H100, worker("h2")],
            [],
            {("wan", "1x-a100-40gb"): (1, 5.0, 1, 0), ("wan", "1x-h100"): (2, 20.0, 2, 0)},
            id="a pinned job counts where it is pinned",
        ),
        pytest.param(
            {Lane("wan", 8, ""): (1, 5.0), Lane("flux", 1, ""): (2, 20.0)},
            [H100],
            [],
            {
                ("flux", "1x-unknown"): (2, 20.0, 0, 0),
                ("wan", "1x-h100"): (0, 0, 1, 0),
                ("wan", "8x-unknown"): (1, 5.0, 0, 0),
            },
            id="what no worker could run is of no class",
        ),
        pytest.param(
            {Lane("wan", 1, ""): (2, 20.0)},
            [worker("gone", lost=True)],
            [REMEMBERED],
            {("wan", "2x-l40s"): (2, 20.0, 0, 0)},
            id="of the class that is remembered, when nobody is there",
        ),
        pytest.param(
            {},
            [worker("h", model="wan", held={"j": 1}), worker("h2", model="wan")],
            [REMEMBERED],
            {("wan", "1x-h100"): (0, 0, 2, 1)},
            id="who is at work is busy, and who is there counts before what is remembered",
        ),
    ],
)
def test_waiting_jobs_count_for_the_smallest_class_that_can_run_them(lanes, workers, known, expected):
    assert counted(lanes, workers, known) == expected


def test_models_are_summed_over_their_lanes():
    lanes = {Lane("wan", 1, ""): (3, 30.0), Lane("wan", 4, "g"): (1, 99.0), Lane("flux", 1, ""): (1, 1.0)}
    assert by_model(lanes) == {"wan": (4, 129.0), "flux": (1, 1.0)}


@pytest.mark.parametrize(
    ("device", "gpus", "label"),
    [
        ("NVIDIA H100 80GB HBM3", 1, "1x-nvidia-h100-80gb-hbm3"),
        ("", 8, "8x-unknown"),
        ("cpu", 1, "1x-cpu"),
        ("×", 1, "1x-unknown"),
    ],
)
def test_a_class_has_a_name_of_plain_letters(device, gpus, label):
    assert class_label(device, gpus) == label


# ---------------------------------------------------------------- on demand


def on_demand(harness):
    return [model.card.name for model in harness.core.snapshot().on_demand]


@pytest.mark.parametrize(("names", "known"), [((), []), (("wan",), ["wan"]), (("*",), ["flux", "wan"])])
def test_models_that_were_named_are_known_when_their_last_worker_has_left(names, known):
    harness = CoreHarness(Policy(on_demand_models=names))
    harness.hello("w1", body=worker_info("wan", "flux"))
    assert on_demand(harness) == []
    harness.feed(b"b-w1", m.Goodbye(orderly=True))
    assert on_demand(harness) == known
    harness.submit("j", model="wan")
    rows = {(one.model, one.label): one.jobs for one in harness.core.snapshot().backlog_by_class}
    assert rows["wan", "1x-cpu" if "wan" in known else "1x-unknown"] == 1
    harness.hello("w2", body=worker_info("wan"))
    assert on_demand(harness) == [name for name in known if name != "wan"]
    assert harness.state("j") == "assigned"


def test_what_is_known_survives_a_reset_and_a_name_that_is_wanted_no_more_is_forgotten():
    harness = CoreHarness(Policy(on_demand_models=("wan",)))
    harness.hello("w1", body=worker_info("wan"))
    known = [*harness.core.state.on_demand.known.values()]
    harness.core.reset(2, harness.now)
    assert on_demand(harness) == ["wan"]
    other = CoreHarness(Policy(on_demand_models=("flux",)))
    other.core.state.on_demand.restore(known)
    assert on_demand(other) == []


def test_a_model_is_known_as_its_last_worker_had_it():
    harness = CoreHarness(Policy(on_demand_models=("wan",)))
    harness.hello("w1", body=worker_info("wan"))
    before = harness.core.state.on_demand.revision
    harness.hello("w1", body=worker_info("wan"))
    assert harness.core.state.on_demand.revision == before
    harness.hello("w2", body=worker_info("wan", gpus=4))
    (model,) = harness.core.state.on_demand.known.values()
    assert (model.size, harness.core.state.on_demand.revision) == (4, before + 1)
    assert codec.pool_view(codec.encode_body(harness.core.snapshot())).on_demand == ()

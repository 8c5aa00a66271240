"""What a cluster is told to lack for one more worker."""

from __future__ import annotations

import pytest

from workers.launchers.room import Machine, lacking

H100 = {"gpu": "h100"}


def machine(gpus, free, going=False, **labels):
    return Machine(total=gpus, free=free, labels=labels, going=going)


@pytest.mark.parametrize(
    ("machines", "gpus", "labels", "text"),
    [
        pytest.param([machine(2, 1), machine(2, 0)], 1, {}, "", id="one is free"),
        pytest.param([machine(0, 0)], 0, {}, "", id="none is needed"),
        pytest.param(
            [machine(2, 0.5)], 1, {}, "of 1 machine, 2 GPUs in all, none has one free", id="half of one is not one"
        ),
        pytest.param(
            [machine(2, 0), machine(0, 0)], 1, {}, "of 2 machines, 2 GPUs in all, none has one free", id="all taken"
        ),
        pytest.param(
            [machine(0, 0)],
            1,
            {},
            "a worker takes 1 GPU of one machine, and of 1 machine none has more than 0",
            id="no GPU",
        ),
        pytest.param([], 1, {}, "no machine is there", id="nothing"),
        pytest.param([machine(2, 2)], 1, H100, "no machine has gpu=h100 (1 is there)", id="no such label"),
        pytest.param(
            [machine(2, 2, gpu="a100")], 0, H100, "no machine has gpu=h100 (1 is there)", id="another value of it"
        ),
        pytest.param(
            [machine(2, 0, gpu="h100"), machine(4, 4)],
            1,
            H100,
            "of 1 machine with gpu=h100, 2 GPUs in all, none has one free",
            id="those with the label are taken",
        ),
        pytest.param(
            [machine(2, 2), machine(2, 2)],
            4,
            {},
            "a worker takes 4 GPUs of one machine, and of 2 machines none has more than 2",
            id="GPUs of two machines do not add up",
        ),
        pytest.param(
            [machine(2, 1), machine(2, 1)],
            2,
            {},
            "of 2 machines, 4 GPUs in all, none has 2 free, at most 1",
            id="in pieces",
        ),
        pytest.param([machine(2, 2, going=True)], 1, {}, "no machine is there", id="one that goes away takes nothing"),
    ],
)
def test_what_is_lacking(machines, gpus, labels, text):
    assert lacking(machines, gpus, labels) == text


@pytest.mark.parametrize(
    ("machines", "gpus", "spread", "text"),
    [
        pytest.param([machine(8, 8), machine(8, 8), machine(8, 0)], 8, 2, "", id="two of three are free"),
        pytest.param(
            [machine(8, 8)],
            8,
            2,
            "a worker takes 8 GPUs of each of 2 machines, and of 1 machine 1 has as many",
            id="one machine alone",
        ),
        pytest.param(
            [machine(16, 16), machine(4, 4)],
            8,
            2,
            "a worker takes 8 GPUs of each of 2 machines, and of 2 machines 1 has as many",
            id="twice as many on one are not two machines",
        ),
        pytest.param(
            [machine(4, 4), machine(4, 4)],
            8,
            2,
            "a worker takes 8 GPUs of each of 2 machines, and of 2 machines none has more than 4",
            id="none is large enough",
        ),
        pytest.param(
            [machine(8, 8), machine(8, 3)],
            8,
            2,
            "of 2 machines, 16 GPUs in all, 1 has 8 free, and a worker takes 2 machines",
            id="one of two is free",
        ),
        pytest.param(
            [machine(1, 1), machine(1, 1), machine(1, 0)],
            1,
            3,
            "of 3 machines, 3 GPUs in all, 2 have one free, and a worker takes 3 machines",
            id="two of three",
        ),
        pytest.param(
            [machine(8, 2), machine(8, 3)], 8, 2, "of 2 machines, 16 GPUs in all, none has 8 free, at most 3", id="none"
        ),
        pytest.param(
            [machine(8, 8), machine(8, 8, going=True)],
            8,
            2,
            "a worker takes 8 GPUs of each of 2 machines, and of 1 machine 1 has as many",
            id="the other goes away",
        ),
    ],
)
def test_what_is_lacking_for_a_worker_over_several_machines(machines, gpus, spread, text):
    assert lacking(machines, gpus, {}, spread) == text

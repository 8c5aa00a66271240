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

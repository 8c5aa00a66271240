"""The simulation notices: a rule of either core that is left out is caught within a few seeds."""

from __future__ import annotations

import pytest

from tests.simulation import hunting, mutations


@pytest.mark.parametrize("mutation", mutations.RULES, ids=lambda mutation: mutation.name)
def test_a_rule_that_is_left_out_is_noticed(mutation: hunting.Mutation) -> None:
    assert hunting.hunt(mutation, first=mutation.first) is not None


def test_no_rule_stays_broken() -> None:
    for mutation in mutations.ALL:
        before = [vars(owner)[name] for owner, name, _ in mutation.swaps]
        with hunting.broken(mutation):
            assert [vars(owner)[name] for owner, name, _ in mutation.swaps] != before
        assert [vars(owner)[name] for owner, name, _ in mutation.swaps] == before

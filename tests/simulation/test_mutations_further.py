"""The simulation notices a rule of time, of parking or of overlap that is left out. Apart, as the tests of a file run in one process."""

from __future__ import annotations

import pytest

from tests.simulation import hunting, mutations


@pytest.mark.parametrize("mutation", mutations.FURTHER, ids=lambda mutation: mutation.name)
def test_a_rule_that_is_left_out_is_noticed(mutation: hunting.Mutation) -> None:
    assert hunting.hunt(mutation, first=mutation.first) is not None

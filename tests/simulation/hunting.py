"""Breaks a rule and looks for a seed that notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from msgspec import Struct

from tests.simulation.runner import Outcome, run_seed

#: Seeds tried before a mutation counts as not noticed.
LIMIT = 400


class Mutation(Struct, frozen=True):
    """One rule, left out."""

    name: str
    #: The rule, as its owner would say it.
    rule: str
    #: (owner, attribute, what takes its place, given what was there).
    swaps: tuple[tuple[Any, str, Callable[[Any], Any]], ...]
    #: Where the hunt begins; what is rarely noticed begins close to a seed that does.
    first: int = 0


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """The rule does not hold in here."""
    with ExitStack() as stack:
        for owner, name, build in mutation.swaps:
            original = vars(owner)[name]
            setattr(owner, name, build(original))
            stack.callback(setattr, owner, name, original)
        yield


def hunt(mutation: Mutation, first: int, limit: int = LIMIT) -> Outcome | None:
    """The first seed that notices; None when none of them does."""
    with broken(mutation):
        for seed in range(first, first + limit):
            outcome = run_seed(seed)
            if outcome.broken:
                # A mutation that no longer fits the code it replaces would be noticed by everybody.
                assert not outcome.broken.startswith(("TypeError", "AttributeError", "NameError")), outcome.broken
                return outcome
    return None


def nothing(_: Any) -> Callable[..., None]:
    """In place of a function: nothing is done."""
    return lambda *args, **kwargs: None


def constant(value: object) -> Callable[[Any], Callable[..., object]]:
    """In place of a function: the answer is always this."""
    return lambda _: lambda *args, **kwargs: value

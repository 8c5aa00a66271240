"""Runs one seed, or many."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

from msgspec import Struct

from tests.simulation import plan as plans
from tests.simulation.disk import Killed
from tests.simulation.world import World

#: A file system in memory, where there is one: a commit then costs no disk.
_MEMORY = Path("/dev/shm")


class Outcome(Struct, frozen=True, kw_only=True):
    """How a seed went."""

    seed: int
    #: What was broken; "" when nothing was.
    broken: str = ""
    counts: dict[str, int] = {}
    lines: list[str] = []


def folder() -> tempfile.TemporaryDirectory[str]:
    """Where journals are written."""
    return tempfile.TemporaryDirectory(prefix="zoetrope-", dir=_MEMORY if _MEMORY.is_dir() else None)


def run_seed(seed: int, *, tracing: bool = False) -> Outcome:
    """One world from its beginning to its end."""
    plan = plans.draw(seed)
    with folder() as place:
        world = World(seed, plan, Path(place), tracing=tracing)
        broken = ""
        try:
            world.run()
        except (Exception, Killed) as error:  # a rule of the checker, or whatever else: each is a finding
            broken = f"{type(error).__name__}: {error}"
            if tracing:
                world.lines += traceback.format_exception(error)
        finally:
            world.broker.end()
    return Outcome(seed=seed, broken=broken, counts=dict(world.counts), lines=world.lines)

"""The threads that move files outlive whatever an order raises: the others are carried out, and it ends with a fault."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_until
from workers.depot.depot import DepotFile
from workers.depot.input_cache import InputCache
from workers.depot.orders import Outcome, Put
from workers.depot.transfers import Transfers


class Broken:
    """A depot in whose client is a bug, for the files of one job."""

    key = "k"

    def __init__(self) -> None:
        self.put_keys: list[str] = []

    def put(self, file: DepotFile, revoked, *, again: bool) -> None:
        if file.key.startswith("bad"):
            raise RuntimeError("a bug")
        self.put_keys.append(file.key)


@pytest.fixture
def transfers(tmp_path):
    made = Transfers(Broken(), InputCache(tmp_path / "inputs", 1 << 20))
    yield made
    made.close()


def put(key: str, fence: int, tmp_path) -> Put:
    file = DepotFile(key=key, path=tmp_path / key, size=1, sha256="ab" * 32)
    return Put(job_id=key, fence=fence, files=(file,), budget_s=0.0)


def test_an_order_that_raises_anything_ends_with_a_fault_and_the_next_is_done(transfers, tmp_path):
    for fence, key in enumerate(("bad", "good"), 1):
        transfers.order(put(key, fence, tmp_path))
    found: list[Outcome] = []
    wait_until(lambda: found.extend(transfers.take()) or len(found) == 2, 60, "both outcomes")
    faults = {one.order.fence: one.fault for one in found}
    assert "RuntimeError: a bug" in faults[1]
    assert faults[2] == ""

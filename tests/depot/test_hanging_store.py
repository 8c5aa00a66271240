"""A store of results that hangs: who waits for it does not keep others from their files."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import pytest

from broker.depot.object_store import ObjectStore, StoreError
from broker.wire.jobspec import Artefact, Result
from broker.wire.messages import JobView
from broker.wire.submission import Submission
from http_edge.base.errors import EdgeError
from http_edge.media.result_files import ResultFiles

#: More than there are threads.
_WAITING = 200


class _HangingStore:
    """Answers no request until it is let go, and then with an error."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def fetch(self, key: str, path: Path, sha256: str) -> None:
        self.asked.set()
        self.let_go.wait()
        raise StoreError("it is away")


def _view(number: int) -> JobView:
    artefact = Artefact(name="0.mp4", media_type="video/mp4", size=3, sha256="0" * 64)
    return JobView(
        id=f"job-{number}",
        state="succeeded",
        fence=1,
        revision=1,
        submission=Submission(model="m", units=1.0),
        result=Result(artefacts=(artefact,)),
    )


@pytest.mark.parametrize("by", ["path", "download"])
def test_other_files_are_read_while_the_store_hangs(tmp_path: Path, by: str) -> None:
    async def scene() -> None:
        store = _HangingStore()
        results = ResultFiles(tmp_path, cast(ObjectStore, store), cache_bytes=1000)
        views = [_view(number) for number in range(_WAITING)]

        def begin(view: JobView) -> Any:
            assert view.result is not None
            artefact = view.result.artefacts[0]
            if by == "path":
                return results.fetched(view, artefact)
            fetch = results.file(view, 0, artefact).fetch
            assert fetch is not None
            return fetch()

        fetches = [asyncio.ensure_future(begin(view)) for view in views]
        try:
            async with asyncio.timeout(60):
                await asyncio.to_thread(store.asked.wait)
                (tmp_path / "other").write_bytes(b"abc")
                assert await anyio.to_thread.run_sync((tmp_path / "other").read_bytes) == b"abc"
        finally:
            store.let_go.set()
        found = await asyncio.gather(*fetches, return_exceptions=True)
        assert {type(one) for one in found} == {EdgeError}

    asyncio.run(scene())


def test_a_result_that_was_fetched_is_there_while_the_store_hangs(tmp_path: Path) -> None:
    async def scene() -> None:
        store = _HangingStore()
        results = ResultFiles(tmp_path, cast(ObjectStore, store), cache_bytes=1000)
        here, *others = (_view(number) for number in range(_WAITING))
        assert here.result is not None
        artefact = here.result.artefacts[0]
        path = results.path(here, artefact)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
        fetches = [asyncio.ensure_future(results.fetched(view, artefact)) for view in others]
        try:
            async with asyncio.timeout(60):
                await asyncio.to_thread(store.asked.wait)
                assert (await results.fetched(here, artefact)).read_bytes() == b"abc"
        finally:
            store.let_go.set()
        await asyncio.gather(*fetches, return_exceptions=True)

    asyncio.run(scene())

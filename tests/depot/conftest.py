"""An edge that listens, over a `FakeBroker`, and a worker's side of each kind of depot."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from msgspec.structs import replace
from obstore.store import MemoryStore

from broker.depot import tokens
from broker.depot.object_store import ObjectStore
from broker.wire.job_files import CHECKPOINTS, checkpoint_name, newest_checkpoints
from broker.wire.jobspec import Artefact, Result
from http_edge.app import Edge, build_app, build_edge
from http_edge.base.settings import EdgeSettings
from http_edge.http.connection import ConnectionProtocol
from tests.support.object_stores import BUCKET, LocalStore, NoStore
from tests.support.waiting import wait_until
from tests.testing.fake_broker import ANIMATE, VIDEO, FakeBroker, worker
from workers.depot.depot import Depot, DepotFile
from workers.depot.http_depot import HttpDepot
from workers.depot.s3_depot import S3Depot

WORKER = "node-2.cpu-0"

#: What a job is; no worker's network, nor a test, is asked for more.
CLIP = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 64


def never() -> bool:
    return False


class FarEdge:
    """An edge process' worth of parts on a port of this machine, in a thread."""

    def __init__(self, home: Path, start: Path, **settings: Any) -> None:
        self.home = home
        self.fake = FakeBroker(home / "artefacts", worker(WORKER, VIDEO, ANIMATE), worker("cpu-1", VIDEO, ANIMATE))

        self.edge: Edge = build_edge(EdgeSettings(home=str(home), **settings), start, self.fake.attach)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(build_app(self.edge), http=ConnectionProtocol, ws="none", log_config=None)
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        wait_until(lambda: self._server.started, what="an edge that listens")
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    def do(self, lever: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call into the fake broker on the edge's event loop."""

        async def call() -> Any:
            result = lever(*args, **kwargs)
            return await result if asyncio.iscoroutine(result) else result

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)

    def running(self, name: str = WORKER, **fields: Any) -> tuple[str, int]:
        """Id and fence of a job that this worker draws."""
        job = self.http.post("/v1/jobs", json={"prompt": "a red circle", **fields}).raise_for_status().json()
        return job["id"], self.do(self.fake.run, job["id"], name).fence

    def publish(self, job_id: str, *files: DepotFile) -> None:
        """The broker has the result of the job's attempt: its row names these files."""
        artefacts = tuple(
            Artefact(name=Path(file.key).name, media_type="video/mp4", size=file.size, sha256=file.sha256)
            for file in files
        )
        self.do(self.fake._end, job_id, "succeeded", result=Result(artefacts=artefacts, seed=1))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self.http.close()
        self._socket.close()


class OwnDisk:
    """The depot of a worker of the edge's machine: what it writes lies where the edge reads."""

    key = ""

    def __init__(self, home: Path) -> None:
        self._home = home

    def put(self, file: DepotFile, revoked: Any, *, again: bool) -> None:
        target = self._checkpoint(file.key) or self._home / file.key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)

    def discard(self, job_id: str, fence: int) -> None:
        shutil.rmtree(self._home / "artefacts" / job_id / str(fence), ignore_errors=True)

    def checkpoints(self, job_id: str, fence: int) -> list[str]:
        names = [path.name for path in (self._home / "artefacts" / CHECKPOINTS / job_id).iterdir()]
        newest = [checkpoint_name(output, step) for output, step in newest_checkpoints(names).items()]
        return [tokens.checkpoint_key(job_id, fence, name) for name in newest]

    def fetch_checkpoint(self, key: str, target: Path, revoked: Any) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._checkpoint(key), target)

    def _checkpoint(self, key: str) -> Path | None:
        match key.split("/"):
            case ["checkpoints", job_id, _, name]:
                return self._home / "artefacts" / CHECKPOINTS / job_id / name
        return None

    def fetch(self, name: str, target: Path, revoked: Any) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._home / "uploads" / name, target)


class Place:
    """One kind of depot, from both sides."""

    def __init__(self, kind: str, far: FarEdge, depot: Depot, spool: Path, store: ObjectStore | None = None) -> None:
        self.kind = kind
        self.far = far
        self.depot = depot
        self.spool = spool
        self.store = store

    def drawn(self, job_id: str, fence: int, data: bytes = CLIP, name: str = "video.mp4") -> DepotFile:
        """A file that an engine has written."""
        path = self.spool / job_id / str(fence) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        return DepotFile(key=tokens.artefact_key(job_id, fence, name), path=path, size=len(data), sha256=sha256)

    def kept(self, job_id: str, fence: int, name: str, data: bytes) -> DepotFile:
        """A checkpoint that an engine has written."""
        file = self.drawn(job_id, fence, data, name)
        return replace(file, key=tokens.checkpoint_key(job_id, fence, name))

    def of(self, name: str) -> Depot:
        """The depot of another worker."""
        if self.kind == "local":
            return OwnDisk(self.far.home)
        depot = http_depot(self.far, name)
        return S3Depot(self.store, depot) if self.store is not None else depot

    def put(self, file: DepotFile, *, again: bool = False) -> None:
        self.depot.put(file, never, again=again)

    def has(self, file: DepotFile) -> bool:
        """Whether the file lies there."""
        if self.store is not None:
            return self.store.has(file.key)
        return (self.far.home / file.key).exists()

    def kept_names(self, job_id: str) -> list[str]:
        """The names of a job's checkpoints that lie there."""
        if self.store is not None:
            return self.store.names(tokens.job_checkpoints_key(job_id))
        directory = self.far.home / "artefacts" / CHECKPOINTS / job_id
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []

    def put_at(self, file: DepotFile) -> float:
        """When it came there, Unix time."""
        if self.store is not None:
            return max(one.at for one in self.store.below("artefacts"))
        return (self.far.home / file.key).stat().st_mtime


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarEdge]:
    start = tmp_path / "start"
    start.mkdir()
    edge = FarEdge(tmp_path / "edge", start)
    yield edge
    edge.close()


def http_depot(far: FarEdge, name: str = WORKER, **kwargs: Any) -> HttpDepot:
    """The depot of a worker that the broker has given its key."""
    depot = HttpDepot(far.url, name, **kwargs)
    depot.key = tokens.key_of(tokens.read_secrets(far.home)[0], name)
    return depot


def _local_store(name: str, directory: Path) -> Iterator[LocalStore]:
    try:
        store = LocalStore(directory / "data", directory / "store.log", (name,))
    except NoStore as error:
        pytest.skip(str(error))
    store.start()
    yield store
    store.kill()


@pytest.fixture(scope="session")
def weed_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    """SeaweedFS, where it is installed."""
    yield from _local_store("weed", tmp_path_factory.mktemp("weed"))


@pytest.fixture(scope="session")
def moto_server_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    """moto, where it is installed: it takes any signature and checksum."""
    yield from _local_store("moto_server", tmp_path_factory.mktemp("moto"))


def over_http(monkeypatch: pytest.MonkeyPatch, store: LocalStore, prefix: str) -> str:
    """Let processes use this store; the URL of a prefix of it."""
    for name, value in store.environ().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{prefix}"


@pytest.fixture(params=["local", "edge", "s3", "weed", "moto_server"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    start = tmp_path / "start"
    start.mkdir()
    settings = {}
    store = None
    if request.param == "s3":
        store = ObjectStore(MemoryStore())
        monkeypatch.setattr(ObjectStore, "of", lambda url, **_: store)
        settings = {"results_store": "s3://bucket/some"}
    elif request.param not in ("local", "edge"):
        url = over_http(monkeypatch, request.getfixturevalue(f"{request.param}_store"), tmp_path.name)
        store = ObjectStore.of(url)
        settings = {"results_store": url}
    far = FarEdge(tmp_path / "edge", start, **settings)
    depot: Depot = OwnDisk(far.home) if request.param == "local" else http_depot(far)
    if store is not None:
        depot = S3Depot(store, depot)
    yield Place(request.param, far, depot, tmp_path / "spool", store)
    far.close()

"""Clients as they are: each submits under its own ids and asks again on any error; then it waits, polls, streams, cancels, or leaves.

Every client writes down what it did and was told (`Log`). None of them knows about the faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.history import (
    FINAL,
    Accepted,
    CancelAnswered,
    Fact,
    Fetched,
    FileFact,
    Missing,
    Saved,
    Seen,
    Submitted,
    Undesigned,
)

#: Answers that mean "not now": the client asks again. Each must say when.
_NOT_NOW = (429, 503, 507)

#: Longest that a client waits for one answer, and between two tries.
_TIMEOUT_S = 6.0
_AGAIN_S = (0.05, 0.4)

#: `fake` of a job, how often, and how many steps of which length. "-once" fails in the first attempt only.
_MIX: tuple[tuple[str, int, tuple[int, int], float], ...] = (
    ("", 34, (1, 6), 0.01),
    ("slow", 26, (4, 24), 0.06),
    ("fail", 2, (2, 4), 0.02),
    ("fail-once", 3, (2, 4), 0.02),
    ("invalid", 3, (2, 4), 0.02),
    ("oom-once", 4, (2, 4), 0.02),
    ("die", 1, (2, 4), 0.02),
    ("die-once", 4, (2, 6), 0.02),
    ("segfault-once", 3, (2, 6), 0.02),
    ("poison-once", 3, (2, 6), 0.02),
    ("hang-once", 1, (2, 6), 0.02),
    ("load_fail", 2, (2, 4), 0.02),
    ("ignore_cancel", 4, (10, 40), 0.06),
)

#: Pictures of the demo model: few, so that each is drawn often, disturbed and undisturbed.
_PICTURES = tuple((seed, steps) for seed in (1, 2) for steps in (40, 70))

_FOLLOW = ("poll", "wait", "stream", "leave", "forget")


class Log:
    """What all clients wrote down, in order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.facts: list[Fact] = []
        self.clock = clock
        self.accepted: dict[str, int] = {}
        self.final: dict[str, str] = {}
        #: Jobs that were answered 404: there is no use in waiting for them.
        self.missing: set[str] = set()
        #: Where each job was asked to be saved to.
        self.paths: dict[str, Path] = {}
        #: Answers by status, errors by class.
        self.answers: dict[str, int] = {}

    def add(self, fact: Fact) -> None:
        self.facts.append(fact)
        if isinstance(fact, Accepted):
            self.accepted.setdefault(fact.job_id, fact.seed)
        elif isinstance(fact, Seen) and fact.state in FINAL:
            self.final.setdefault(fact.job_id, fact.state)
        elif isinstance(fact, Missing):
            self.missing.add(fact.job_id)

    def count(self, what: str) -> None:
        self.answers[what] = self.answers.get(what, 0) + 1

    @property
    def open(self) -> list[str]:
        """Accepted jobs that nobody has seen final yet."""
        return [job_id for job_id in self.accepted if job_id not in self.final and job_id not in self.missing]


class Client:
    """One client; `run` lives until `stopping` is set."""

    def __init__(
        self, name: str, seed: str, ports: list[int], log: Log, notes: Path, start_dir: Path, model: str = "fake"
    ) -> None:
        self.name = name
        self._model = model
        self.log = log
        self.stopping = asyncio.Event()
        self._rng = random.Random(seed)
        self._notes = notes
        self._start_dir = start_dir
        self._jobs = 0
        limits = httpx.Limits(max_connections=8)
        self._http = [
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_TIMEOUT_S, limits=limits) for port in ports
        ]

    async def run(self) -> None:
        """One job after another."""
        while not self.stopping.is_set():
            await self._one_job()

    async def close(self) -> None:
        for http in self._http:
            await http.aclose()

    # ------------------------------------------------------------ one job

    async def _one_job(self) -> None:
        self._jobs += 1
        job_id = f"{self.name}-{self._jobs}"
        request = self._request(job_id) if self._model == "fake" else self._picture(job_id)
        self.log.add(Submitted(at=self.log.clock(), job_id=job_id, drawing=drawing_of(request)))
        if self._rng.random() < 0.05:
            await self._submit_and_vanish(request)
            return
        if await self.submit(request) is None:
            return
        if self._rng.random() < 0.15:
            await self.submit(request)
        jobs = [self.follow(job_id, self._rng.choice(_FOLLOW))]
        if self._rng.random() < (0.9 if request["extra"].get("fake") == "ignore_cancel" else 0.2):
            jobs.append(self._cancel_later(job_id))
        await asyncio.gather(*jobs)

    def _picture(self, job_id: str) -> dict[str, Any]:
        """A request to the demo model."""
        return {**picture(self._rng.randrange(len(_PICTURES)), job_id), "priority": self._rng.choice((5, 5, 2, 8))}

    def _request(self, job_id: str) -> dict[str, Any]:
        rng = self._rng
        fake, _, (low, high), step_s = rng.choices(_MIX, [row[1] for row in _MIX])[0]
        extra: dict[str, Any] = {"fake_step_s": step_s}
        if fake:
            extra["fake"] = fake.removesuffix("-once")
        if fake.endswith("-once"):
            extra["fake_once"] = str(self._notes / job_id)
        request: dict[str, Any] = {
            "id": job_id,
            "prompt": f"bar {job_id}",
            "num_inference_steps": rng.randint(low, high),
            "num_frames": rng.choice((1, 5, 9)),
            "priority": rng.choice((5, 5, 5, 2, 8)),
            "extra": extra,
        }
        if rng.random() < 0.2:
            request["save_to"] = f"out/{job_id}.mp4"
            self.log.paths[job_id] = self._start_dir / "out" / f"{job_id}.mp4"
        return request

    async def submit(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Until it is accepted; None when the soak ends first, or an answer says that it never will be."""
        while not self.stopping.is_set():
            reply, _ = await self._ask("POST", "/v1/jobs", request["id"], json=request)
            if reply is not None and reply.status_code == 200:
                job: dict[str, Any] = reply.json()
                self.log.add(Accepted(at=self.log.clock(), job_id=request["id"], seed=job["spec"]["seed"]))
                return job
            if reply is not None and reply.status_code not in _NOT_NOW:
                return None
            await self._pause()
        return None

    async def _submit_and_vanish(self, request: dict[str, Any]) -> None:
        """Break off somewhere in the middle; the job may exist or not, and is never asked for again."""
        asked = asyncio.create_task(self._ask("POST", "/v1/jobs", request["id"], json=request))
        await asyncio.wait([asked], timeout=self._rng.uniform(0, 0.02))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def _cancel_later(self, job_id: str) -> None:
        await asyncio.sleep(self._rng.choice((0, self._rng.uniform(0, 1), self._rng.uniform(0, 4))))
        while not self.stopping.is_set():
            asked = self.log.clock()
            reply, edge = await self._ask("DELETE", f"/v1/jobs/{job_id}", job_id)
            if reply is not None and reply.status_code == 200:
                answer = reply.json()
                self.log.add(CancelAnswered(at=self.log.clock(), job_id=job_id, outcome=answer["outcome"]))
                self._saw(job_id, answer["job"], edge, asked)
                return
            await self._pause()

    # ------------------------------------------------------------ following it

    async def follow(self, job_id: str, how: str) -> None:
        """Until it is final, or the client loses interest, or the soak ends."""
        if how == "leave":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0, 1.5)):
                    await self._stream(job_id)
        if how in ("leave", "forget"):
            return
        while not self.stopping.is_set() and job_id not in self.log.final:
            if how == "stream":
                await self._stream(job_id)
            else:
                await self.look(job_id, "wait=3" if how == "wait" else "")
            await self._pause()
        if self.log.final.get(job_id) == "succeeded" and self._rng.random() < 0.5:
            await self.fetch(job_id)

    async def look(self, job_id: str, prefer: str = "") -> dict[str, Any] | None:
        """Ask once; the job, if it was answered."""
        headers = {"Prefer": prefer} if prefer else {}
        asked = self.log.clock()
        reply, edge = await self._ask("GET", f"/v1/jobs/{job_id}", job_id, headers=headers)
        if reply is None or reply.status_code != 200:
            return None
        job: dict[str, Any] = reply.json()
        self._saw(job_id, job, edge, asked)
        return job

    async def _stream(self, job_id: str) -> None:
        """Server-sent events until the stream ends."""
        edge, asked = self._rng.randrange(len(self._http)), self.log.clock()
        with contextlib.suppress(httpx.HTTPError):
            async with self._http[edge].stream("GET", f"/v1/jobs/{job_id}/events", timeout=12.0) as reply:
                self.log.count(str(reply.status_code))
                if reply.status_code != 200:
                    return
                kind = ""
                async for line in reply.aiter_lines():
                    name, _, value = line.partition(":")
                    if name == "event":
                        kind = value.strip()
                    elif name == "data" and kind == "state":
                        self._saw(job_id, json.loads(value), edge, asked)
                    if self.stopping.is_set():
                        return

    async def fetch(self, job_id: str) -> bool:
        """Download every file of a job that succeeded; whether all came whole."""
        job = await self.look(job_id)
        for artefact in (job or {}).get("artefacts", ()):
            reply, _ = await self._ask("GET", artefact["url"], job_id)
            if reply is None or reply.status_code != 200:
                return False
            file = FileFact(artefact["name"], len(reply.content), hashlib.sha256(reply.content).hexdigest())
            self.log.add(Fetched(at=self.log.clock(), job_id=job_id, file=file))
        return job is not None

    def _saw(self, job_id: str, job: dict[str, Any], edge: int, asked: float) -> None:
        files = tuple(FileFact(a["name"], a["size"], a["sha256"]) for a in job.get("artefacts", ()))
        now = self.log.clock()
        self.log.add(Seen(at=now, job_id=job_id, state=job["state"], asked=asked, files=files, edge=edge))
        if job["state"] == "succeeded" and job_id in self.log.paths and not job.get("save_error"):
            path = self.log.paths.pop(job_id)
            self.log.add(Saved(at=self.log.clock(), job_id=job_id, file=file_fact(path)))

    # ------------------------------------------------------------ one question

    async def _ask(self, method: str, url: str, job_id: str, **kwargs: Any) -> tuple[httpx.Response | None, int]:
        """(the answer, or None when there was none; which edge was asked)."""
        edge = self._rng.randrange(len(self._http))
        try:
            reply = await self._http[edge].request(method, url, **kwargs)
        except httpx.HTTPError as error:
            self.log.count(type(error).__name__)
            return None, edge
        self.log.count(str(reply.status_code))
        self._judge(method, url, job_id, reply)
        return reply, edge

    def _judge(self, method: str, url: str, job_id: str, reply: httpx.Response) -> None:
        """Note what must not be answered."""
        status = reply.status_code
        if status == 404 and "not_ready" not in reply.text:
            self.log.add(Missing(at=self.log.clock(), job_id=job_id))
        elif status in _NOT_NOW and "retry-after" not in reply.headers:
            self._undesigned(job_id, f"{method} {url}: {status} without Retry-After")
        elif status not in (200, *_NOT_NOW):
            self._undesigned(job_id, f"{method} {url}: {status} {reply.text[:300]}")

    def _undesigned(self, job_id: str, text: str) -> None:
        self.log.add(Undesigned(at=self.log.clock(), job_id=job_id, text=text))

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(*_AGAIN_S))


def picture(number: int, job_id: str) -> dict[str, Any]:
    """The request for one of a few pictures; those of the same number are the same."""
    seed, steps = _PICTURES[number % len(_PICTURES)]
    size = {"width": 64, "height": 64, "num_frames": 1}
    return {
        "id": job_id,
        "prompt": "a red circle",
        "output": "image",
        "seed": seed,
        "num_inference_steps": steps,
        **size,
        "extra": {},
    }


def drawing_of(request: dict[str, Any]) -> str:
    """What makes its picture; "" where no other job draws the same."""
    if request.get("output") != "image":
        return ""
    return f"{request['prompt']}, seed {request['seed']}, {request['num_inference_steps']} steps"


def file_fact(path: Path) -> FileFact | None:
    """What a file holds; None when there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return FileFact(path.name, len(data), hashlib.sha256(data).hexdigest())

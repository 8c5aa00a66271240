"""One soak: start, load and faults, the end of the faults, calm, stop, verdict."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tests.chaos import evidence, faults, report
from tests.chaos.checker import check
from tests.chaos.clients import Client, Log, drawing_of, picture
from tests.chaos.faults import Fault, Injector, Strike
from tests.chaos.harness import Service, Unit
from tests.chaos.history import Accepted, Evidence, Submitted, Violation
from tests.chaos.watch import Watch

#: How long the service may take to come up; and, after the last fault, every job to its end (retries wait 25 s).
START_S = 60.0
SETTLE_S = 120.0
_ALONE_S = 8.0
_MODEL_PATIENCE = 3.0
_PROGRESS_S = 5.0
#: What clients get to end what they are about, before they are cut off.
_LEAVE_S = 5.0

#: A soak longer than usual has faults that last longer, up to so many times.
_USUAL_S, _MOST_STRETCH = 60.0, 4.0

#: The calm load: jobs, and what a process may have gained after it, descriptors and MB.
CALM_JOBS, CALM_PICTURES = 40, 12
MORE_DESCRIPTORS, MORE_MB = 3, 12.0
_CALM_JOB = {"prompt": "calm", "num_inference_steps": 3, "num_frames": 5}


class Options(Struct, frozen=True, kw_only=True):
    """What a soak is asked for."""

    seconds: float
    seed: int
    workers: int
    clients: int
    edges: int
    #: Workers come by tcp with CURVE keys, else over a unix socket.
    tcp: bool
    #: Every fault waits until the service is whole: for measuring recoveries.
    apart: bool = False
    #: "fake", or "demo", whose pictures are compared.
    model: str = "fake"
    only: tuple[str, ...] = ()
    #: "edge": workers have a home of their own, and send their files to the first edge. "s3": and their results to an object store.
    depot: str = "local"


class Soak:
    """Runs once."""

    def __init__(self, options: Options, keep: Path | None = None) -> None:
        self._options = options
        self._keep = keep
        self._zero = time.monotonic()
        self.log = Log(self._clock)
        self.service = Service(
            options.workers, options.edges, tcp=options.tcp, model=options.model, depot=options.depot
        )
        #: A model that is loaded and computes takes longer for everything.
        self._patience = 1.0 if options.model == "fake" else _MODEL_PATIENCE
        self._calm_jobs = CALM_JOBS if options.model == "fake" else CALM_PICTURES
        self.strikes: list[Strike] = []
        self.troubles: list[str] = []
        self._watch = Watch(self.service, self._clock, self._last_accept)
        self._injector = Injector(self.service, self._clock)
        self._clients = [self._client(f"c{number}") for number in range(options.clients)]
        self._striking: set[asyncio.Task[None]] = set()

    def _clock(self) -> float:
        return time.monotonic() - self._zero

    def _last_accept(self) -> float:
        return next((fact.at for fact in reversed(self.log.facts) if isinstance(fact, Accepted)), 0.0)

    def _client(self, name: str) -> Client:
        seed = f"{self._options.seed}-{name}"
        places = self.service.notes, self.service.start_dir
        return Client(name, seed, self.service.ports, self.log, *places, self._options.model)

    async def run(self) -> report.Report:
        """The whole soak; whatever happens, no process is left."""
        calm: list[report.Calm] = []
        try:
            await self.service.start()
            self._watch.start()
            if await self._until(self._all_work, START_S, "the service to come up"):
                await self._under_fire()
                await self._settle()
                calm = await self._calm()
                await self._ask_once_more()
            return await self._finish(calm)
        finally:
            await self._watch.close()
            for client in self._clients:
                await client.close()
            await self.service.stop()
            self.service.kill_everything()
            if self._keep is not None:
                self._keep_story(self._keep)
            self.service.remove()

    # ------------------------------------------------------------ the phases

    async def _under_fire(self) -> None:
        """Load and faults at once, for as long as was asked for."""
        began = self._clock()
        print(f"# seed {self._options.seed}: {self._options.seconds:g} s of faults begin", flush=True)
        load = [asyncio.create_task(client.run()) for client in self._clients]
        reported = asyncio.create_task(self._tell(began))
        try:
            async with asyncio.timeout(self._options.seconds):
                await self._faults()
        except TimeoutError:
            pass
        # What is paused goes on, what is held is released, before anybody judges.
        await asyncio.gather(*self._striking)
        for client in self._clients:
            client.stopping.set()
        await asyncio.wait(load, timeout=_LEAVE_S)
        for task in (*load, reported):
            task.cancel()
        await asyncio.gather(*load, reported, return_exceptions=True)
        self.troubles += [f"a client broke: {task.exception()!r}" for task in load if _broke(task)]

    async def _faults(self) -> None:
        stretch = min(_MOST_STRETCH, max(1.0, self._options.seconds / _USUAL_S))
        disk, preload = self.service.disk_mounted, self.service.library is not None
        store = self.service.store is not None
        for fault in faults.plan(self._options.seed, disk=disk, preload=preload, store=store, stretch=stretch):
            if self._options.only and fault.kind not in self._options.only:
                continue
            await asyncio.sleep(fault.pause_s)
            alone = fault.alone or self._options.apart
            if alone:
                await self._watch.whole(_ALONE_S)
            self._begin(fault)
            if alone:
                await self._watch.whole(_ALONE_S + fault.lasts_s)

    def _begin(self, fault: Fault) -> Strike:
        strike = Strike(fault=fault, began=self._clock())
        self.strikes.append(strike)
        self._watch.struck(strike)
        task = asyncio.create_task(self._injector.strike(strike))
        self._striking.add(task)
        task.add_done_callback(self._striking.discard)
        return strike

    async def _settle(self) -> None:
        """Nothing goes wrong any more: the service becomes whole, and every job reaches its end."""
        print(f"# {self._clock():6.1f} s  faults are over, {len(self.log.open)} jobs not known to be final", flush=True)
        await self._until(self._all_work, SETTLE_S, "all workers to work again")
        client = self._client("settle")
        self._clients.append(client)
        give_up = self._clock() + SETTLE_S * self._patience
        while self.log.open and self._clock() < give_up:
            for job_id in self.log.open:
                await client.look(job_id)
            await asyncio.sleep(0.2)

    async def _calm(self) -> list[report.Calm]:
        """A load without faults, and what each process has gained by it."""
        await self._calm_load("warm")
        before = [evidence.load_of(unit.name, unit.pid) for unit in self._lasting()]
        await self._calm_load("calm")
        after = [evidence.load_of(unit.name, unit.pid) for unit in self._lasting()]
        lines = []
        for was, is_ in zip(before, after, strict=True):
            descriptors, rss_mb = (was.descriptors, is_.descriptors), (was.rss_mb, is_.rss_mb)
            lines.append(report.Calm(name=was.name, descriptors=descriptors, rss_mb=rss_mb))
            if is_.descriptors - was.descriptors > MORE_DESCRIPTORS:
                self.troubles.append(
                    f"{was.name} leaks descriptors: {descriptors[0]}, {descriptors[1]} after {self._calm_jobs} jobs"
                )
            if is_.rss_mb - was.rss_mb > MORE_MB:
                self.troubles.append(
                    f"{was.name} grows: {rss_mb[0]:.1f} MB, {rss_mb[1]:.1f} MB after {self._calm_jobs} jobs"
                )
        expected = 1 + 1 + 2 * self._options.workers + self._options.edges
        if len(there := self.service.processes()) != expected:
            self.troubles.append(f"{len(there)} processes live in the calm, {expected} should: {there}")
        return lines

    def _lasting(self) -> list[Unit]:
        return list(self.service.units.values())

    async def _calm_load(self, name: str) -> None:
        client = self._client(name)
        ids = [f"{name}-{number}" for number in range(self._calm_jobs)]
        drawn = self._options.model != "fake"
        requests = [
            picture(number, ids[number]) if drawn else {"id": ids[number], **_CALM_JOB}
            for number in range(self._calm_jobs)
        ]
        try:
            for request in requests:
                self.log.add(Submitted(at=self._clock(), job_id=request["id"], drawing=drawing_of(request)))
            await asyncio.gather(*(client.submit(request) for request in requests))
            await asyncio.gather(*(client.follow(job_id, "stream") for job_id in ids))
        finally:
            await client.close()
        # Connections of those who left are taken down a moment later.
        await asyncio.sleep(1.0)

    async def _ask_once_more(self) -> None:
        """Every job that is known, and every file, one last time."""
        client = self._client("last")
        self._clients.append(client)
        for job_id in tuple(self.log.accepted):
            if self.log.final.get(job_id) == "succeeded":
                if not await client.fetch(job_id):
                    self.troubles.append(f"the files of job {job_id} cannot be downloaded")
            else:
                await client.look(job_id)

    async def _finish(self, calm: list[report.Calm]) -> report.Report:
        await self._watch.close()
        stored = () if self.service.objects is None else tuple(evidence.read_objects(self.service.objects))
        codes = await self.service.stop()
        self.troubles += [f"{name} ended with {code} after SIGTERM" for name, code in codes.items() if code != 0]
        self.troubles += [f"orphan: {line}" for line in self.service.kill_everything()]
        for unit in self.service.units.values():
            self.troubles += [f"{unit.name} ended by itself with {code}, see its log" for _, code in unit.faults]
            self.troubles += [f"{unit.name} ended with {code} after SIGTERM" for code in unit.stops if code != 0]
        library = self.service.library
        if library and not library.failed and any(strike.fault.kind == "fail flush" for strike in self.strikes):
            self.troubles.append("no flush failed, though flushes were to fail")
        integrity, journal = evidence.read_journal(self.service.home)
        if integrity != "ok":
            self.troubles.append(f"the journal is damaged: {integrity}")
        wrong, lost_attempts = evidence.leftovers(self.service.home, self.service.start_dir, journal)
        self.troubles += [f"left over: {text}" for text in wrong]
        disk = (*evidence.read_artefacts(self.service.home), *stored)
        violations = check(Evidence(facts=tuple(self.log.facts), journal=tuple(journal), disk=disk))
        submitted = {fact.job_id for fact in self.log.facts if isinstance(fact, Submitted)}
        states = [job.state for job in journal]
        jobs = {"submitted": len(submitted), "accepted": len(self.log.accepted), "in the journal": len(journal)}
        jobs |= {state: states.count(state) for state in sorted(set(states))}
        jobs["started more than once"] = sum(job.attempts > 1 for job in journal)
        return self._report(jobs, calm, lost_attempts, violations)

    def _report(
        self, jobs: dict[str, int], calm: list[report.Calm], lost_attempts: int, violations: list[Violation]
    ) -> report.Report:
        return report.Report(
            seed=self._options.seed,
            seconds=self._options.seconds,
            disk=self.service.disk_mounted,
            jobs=jobs,
            answers=self.log.answers,
            restarts={unit.name: unit.restarts for unit in self.service.units.values()},
            recoveries=report.recoveries(self.strikes),
            calm=tuple(calm),
            lost_attempts=lost_attempts,
            violations=tuple(violations),
            troubles=tuple(self.troubles),
        )

    # ------------------------------------------------------------ small things

    def _all_work(self) -> bool:
        return self._watch.working() >= self._options.workers

    async def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> bool:
        """Wait for it; a limit that is reached is a broken promise."""
        limit_s *= self._patience
        give_up = self._clock() + limit_s
        while not condition():
            if self._clock() > give_up:
                self.troubles.append(f"not within {limit_s:g} s: {what} ({self._watch.queue_line()})")
                return False
            await asyncio.sleep(0.05)
        return True

    async def _tell(self, began: float) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            last = ", ".join(strike.fault.kind for strike in self.strikes[-4:])
            print(
                f"# {self._clock() - began:6.1f} s  accepted {len(self.log.accepted)}, final {len(self.log.final)},"
                f" faults {len(self.strikes)} (last: {last}); {self._watch.queue_line()}",
                flush=True,
            )

    def _keep_story(self, keep: Path) -> None:
        """Logs and journal of a soak, for whoever must find out why."""
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.service.logs, keep / "logs", dirs_exist_ok=True)
        for path in self.service.home.glob("jobs.sqlite*"):
            shutil.copy2(path, keep)
        lines = [f"{s.began:.3f}-{s.ended:.3f} {s.fault.kind} {s.killed or ''} {s.workers}" for s in self.strikes]
        (keep / "strikes.txt").write_text("\n".join(lines))
        (keep / "facts.txt").write_text("\n".join(map(repr, self.log.facts)))


def _broke(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None

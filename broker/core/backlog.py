"""Sums of waiting jobs to scale workers by: by model, and by model and class of workers.

A class is GPUs of one kind, so many a worker. Jobs count for the smallest class that can run them, as placement gives them out, of equally
large ones for that with the most workers; pinned ones for the class of their worker. While no worker can run them they count for the class
that is remembered of their model, or for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from broker.core.pool import Worker
from broker.core.scheduling.queue import Lane
from broker.wire.messages import ClassBacklog, OnDemandModel

#: (device, GPUs a worker).
_Class = tuple[str, int]
#: Lane -> number of jobs in it, and their predicted seconds.
Lanes = Mapping[Lane, tuple[int, float]]


def by_model(lanes: Lanes) -> dict[str, tuple[int, float]]:
    """(jobs, predicted seconds) of each model."""
    found: dict[str, tuple[int, float]] = {}
    for lane, (jobs, cost_s) in lanes.items():
        before, before_s = found.get(lane.model, (0, 0.0))
        found[lane.model] = (before + jobs, before_s + cost_s)
    return found


def by_class(
    lanes: Lanes,
    workers: Iterable[Worker],
    known: Mapping[str, OnDemandModel],
    seconds_on: Callable[[Lane, float, int], float] = lambda lane, seconds, gpus: seconds,
) -> list[ClassBacklog]:
    """Waiting jobs by model and class, sorted; every model of every class has an entry. `known`: classes of models without a worker.

    `seconds_on` converts a lane's seconds, as predicted for the mean of the workers, into those on workers of so many GPUs.
    """
    there: dict[str, dict[_Class, list[int]]] = {}
    of_worker: dict[str, _Class] = {}
    alike: dict[tuple[_Class, frozenset[str]], int] = {}
    pins = {lane.pinned for lane in lanes}
    for worker in workers:
        if worker.lost:
            continue
        own = (worker.info.device, worker.info.gpus)
        alike[own, worker.models] = alike.get((own, worker.models), 0) + 1
        if worker.name in pins:
            of_worker[worker.name] = own
        if worker.held and worker.model in worker.models:
            there.setdefault(worker.model, {}).setdefault(own, [0, 0])[1] += 1
    for (own, models), count in alike.items():
        for model in models:
            there.setdefault(model, {}).setdefault(own, [0, 0])[0] += count
    for model, remembered in known.items():
        there.setdefault(model, {(remembered.device, remembered.size): [0, 0]})
    waiting: dict[tuple[str, _Class], tuple[int, float]] = {}
    for lane, (jobs, cost_s) in lanes.items():
        own = _class_of(lane, there.get(lane.model, {}), of_worker)
        before, before_s = waiting.get((lane.model, own), (0, 0.0))
        waiting[lane.model, own] = (before + jobs, before_s + seconds_on(lane, cost_s, own[1]))
    for model, own in waiting:
        there.setdefault(model, {}).setdefault(own, [0, 0])
    return [
        ClassBacklog(
            model=model,
            device=own[0],
            size=own[1],
            jobs=waiting.get((model, own), (0, 0.0))[0],
            backlog_s=waiting.get((model, own), (0, 0.0))[1],
            workers=count,
            busy=busy,
        )
        for model in sorted(there)
        for own, (count, busy) in sorted(there[model].items())
    ]


def _class_of(lane: Lane, classes: Mapping[_Class, list[int]], of_worker: Mapping[str, _Class]) -> _Class:
    """The class that the jobs of a lane count for."""
    if lane.pinned in of_worker:
        return of_worker[lane.pinned]
    fitting = [own for own in classes if own[1] >= lane.gpus]
    return min(fitting, key=lambda own: (own[1], -classes[own][0], own[0]), default=("", lane.gpus))

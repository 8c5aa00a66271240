"""The workers with room, grouped so that those of a group differ in idle time alone: a choice compares groups, not workers.

It is the choice of `placement.choose` among all that fit. A pool of ten thousand workers that serve the same models has some four groups.
While there are few workers, groups cost more than a pass over all, so that they are brought up to date only when a choice needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol, TypeVar

from broker.core.scheduling import placement
from broker.core.scheduling.placement import Candidate, Requirements


class Worker(Candidate, Protocol):
    """The part of a worker that decides its group."""

    @property
    def models(self) -> frozenset[str]: ...


AnyWorker = TypeVar("AnyWorker", bound=Worker)

#: (models, model in memory, GPUs, whether it holds a job), by which workers are grouped.
_Kind = tuple[frozenset[str], str, int, bool]
#: (idle since, name), by which the workers of a group are ordered.
_Place = tuple[float, str]

#: Up to so many workers are looked at one by one.
FEW = 8
#: So many stale places a group may have beside as many as it has workers, before they are thrown out.
_STALE = 16


class _Group:
    """The workers of one kind."""

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        #: A heap of the places, with some that are taken no more.
        self._heap: list[_Place] = []

    def add(self, place: _Place) -> None:
        self.places[place[1]] = place
        if len(self._heap) > 2 * len(self.places) + _STALE:
            self._heap = [*self.places.values()]
            heapify(self._heap)
        else:
            heappush(self._heap, place)

    def first(self) -> _Place:
        """The place of the worker that has been idle for longest."""
        heap, places = self._heap, self.places
        while places.get((place := heap[0])[1]) != place:
            heappop(heap)
        return place


class FreeWorkers(Mapping[str, AnyWorker]):
    """Workers with room by name, in no promised order."""

    def __init__(self) -> None:
        #: For reading.
        self.by_name: dict[str, AnyWorker] = {}
        self._groups: dict[_Kind, _Group] = {}
        self._kind_of: dict[str, _Kind] = {}
        #: Those that may be in another group than they should be in.
        self._moved: dict[str, None] = {}

    def __getitem__(self, name: str) -> AnyWorker:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def put(self, worker: AnyWorker) -> None:
        """Note a worker that has room, or whose properties may have changed since."""
        name = worker.name
        self.by_name[name] = worker
        self._moved[name] = None

    def take(self, name: str) -> None:
        """Note that a worker, which was here, has no room any more."""
        del self.by_name[name]
        self._moved[name] = None

    def any_fits(self, required: Requirements) -> bool:
        """Whether one of them could run this."""
        if required.pinned:
            worker = self.by_name.get(required.pinned)
            return worker is not None and placement.fits(required, worker)
        if len(self.by_name) <= FEW:
            return any(placement.fits(required, worker) for worker in self.by_name.values())
        return any(required.model in kind[0] and required.gpus <= kind[2] for kind in self._groups_now())

    def choose(self, required: Requirements, loras: Sequence[str] = ()) -> AnyWorker | None:
        """The worker for this, with these LoRAs, as `placement.choose` has it; None: none fits."""
        by_name = self.by_name
        if len(by_name) <= FEW or required.pinned:
            able: list[AnyWorker] = []
            for worker in by_name.values():
                if placement.fits(required, worker):
                    able += (worker,)
            return placement.choose(required.model, able, loras) if able else None
        best: tuple[int, int, bool, int, _Place] | None = None
        for (models, model, gpus, holds), group in self._groups_now().items():
            if required.model not in models or required.gpus > gpus:
                continue
            loaded = placement.loaded_rank(required.model, model)
            if loras and not loaded:
                lacks, place = min(
                    (placement.lacks(by_name[name], loras), place) for name, place in group.places.items()
                )
            else:
                lacks, place = 0, group.first()
            rank = loaded, gpus, holds, lacks, place
            if best is None or rank < best:
                best = rank
        return None if best is None else by_name[best[-1][1]]

    def _groups_now(self) -> Mapping[_Kind, _Group]:
        """The groups, brought up to date."""
        groups, kind_of = self._groups, self._kind_of
        for name in self._moved:
            worker, old = self.by_name.get(name), kind_of.get(name)
            new = None
            if worker is not None:
                new = worker.models, worker.model, worker.info.gpus, bool(worker.held)
                if new == old and groups[new].places[name][0] == worker.idle_since:
                    continue
            if old is not None:
                places = groups[old].places
                del places[name], kind_of[name]
                if not places:
                    del groups[old]
            if worker is not None and new is not None:
                if new not in groups:
                    groups[new] = _Group()
                groups[new].add((worker.idle_since, name))
                kind_of[name] = new
        self._moved.clear()
        return groups

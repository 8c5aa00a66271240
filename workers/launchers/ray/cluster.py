"""The cluster as a pool needs it: its actors, its placement groups, its machines."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workers.launchers.child import LastReports, Report
from workers.launchers.group import combined, part_names
from workers.launchers.order import Order
from workers.launchers.ray.owners import NAMESPACE, RankOwner, WorkerOwner
from workers.launchers.room import Machine, lacking


class RayCluster:
    """The actors of a pool, and the placement groups of those of its workers that are over several machines."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._order_bytes = msgspec.json.encode(order)
        self._actor = re.compile(rf"{re.escape(order.pool)}\.(w\d+(?:\.\d+)?)")
        self._group = re.compile(rf"{NAMESPACE}\.{re.escape(order.pool)}\.(w\d+)")
        self._handles: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self._last = LastReports()
        #: Workers over several machines -> over how many.
        self._groups: dict[str, int] = {}

    def members(self) -> dict[str, Report | None]:
        """The last report of every worker; None of one that does not run."""
        self._groups = self._read_groups()
        actors = {match[1] for full in ray.util.list_named_actors() if (match := self._actor.fullmatch(full))}
        reports = self._ask(actors)
        names = {actor.partition(".")[0] for actor in actors} | self._groups.keys()
        return {name: self._member(name, actors, reports) for name in names}

    def _member(self, name: str, actors: set[str], reports: Mapping[str, Report | None]) -> Report | None:
        names = part_names(name, self._groups.get(name, 1))
        parts = [reports.get(part) for part in names]
        if parts[0] is not None and parts[0].code is not None:
            for part in parts[1:]:
                if part is not None and part.code is None:
                    self.terminate(part.name, part.boot)
        report = combined(parts)
        if name in self._groups and not actors.issuperset(names) and (report is None or report.code is None):
            # A machine is gone, or a process has ended: the rest is of no use without it, and the pool requests all of it anew.
            self._dissolve(name)
            return None
        return report

    def _read_groups(self) -> dict[str, int]:
        return {
            match[1]: len(group["bundles"])
            for group in ray.util.placement_group_table().values()
            if group["state"] != "REMOVED" and (match := self._group.fullmatch(group["name"]))
        }

    def _ask(self, actors: set[str]) -> dict[str, Report | None]:
        """Read what each actor reports, or has reported some moments ago."""
        for gone in self._handles.keys() - actors:
            del self._handles[gone]
            self._pending.pop(gone, None)
            self._last.forget(gone)
        for name in actors:
            with contextlib.suppress(ValueError):  # it has ended since
                handle = self._handles.setdefault(name, ray.get_actor(self._full(name), NAMESPACE))
                self._pending.setdefault(name, handle.report.remote())
        asked = dict(self._pending)
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=0.5) if asked else ([], [])
        now = time.monotonic()
        for name, ref in asked.items():
            if ref in ready:
                self._answered(name, ref, now)
        return {name: self._last.of(name, now) for name in asked}

    def _answered(self, name: str, ref: Any, now: float) -> None:
        del self._pending[name]
        try:
            self._last.put(msgspec.json.decode(ray.get(ref), type=Report), now)
        except ray.exceptions.RayError:
            self._last.forget(name)

    def start(self, name: str) -> None:
        """Make the actors of a worker, which Ray places as soon as machines have what they request."""
        if self._order.machines_per_worker > 1:
            self._start_group(name)
        else:
            self._handles[name] = self._make(
                WorkerOwner, name, (), max_restarts=-1, label_selector=self._order.labels or None
            )

    def _start_group(self, name: str) -> None:
        machines, labels = self._order.machines_per_worker, self._order.labels
        group = ray.util.placement_group(
            [{"GPU": float(self._order.gpus_per_worker)}] * machines,
            strategy="STRICT_SPREAD",
            name=self._group_name(name),
            lifetime="detached",
            bundle_label_selector=[labels] * machines if labels else None,
        )
        self._groups[name] = machines
        leader: tuple[Any, ...] = ()
        for bundle, part in enumerate(part_names(name, machines)):
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
            owner = RankOwner if leader else WorkerOwner
            self._handles[part] = self._make(owner, part, leader, max_restarts=0, scheduling_strategy=where)
            leader = leader or (self._handles[part],)

    def _make(self, owner: type, name: str, further: tuple[Any, ...], **options: Any) -> Any:
        return (
            ray.remote(owner)
            .options(
                name=self._full(name),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                num_gpus=self._order.gpus_per_worker,
                **options,
            )
            .remote(self._order_bytes, name, *further)
        )

    def withdraw(self, name: str) -> None:
        """Give up a worker that no machine has: there is no process yet that could leave."""
        if name in self._groups:
            self._dissolve(name)
        elif (handle := self._handles.get(name)) is not None:
            ray.kill(handle, no_restart=True)

    def release(self, name: str, boot: str) -> None:
        """Let an actor end whose worker has, and all of a group."""
        if name in self._groups:
            self._dissolve(name)
        elif (handle := self._handles.get(name)) is not None:
            handle.leave.remote(boot)

    def _dissolve(self, name: str) -> None:
        """Remove a placement group, with the actors in it, which Ray starts no second time: what bears their names are they."""
        for part in part_names(name, self._groups[name]):
            if (handle := self._handles.get(part)) is not None:
                ray.kill(handle, no_restart=True)
        with contextlib.suppress(ValueError):  # it is gone
            ray.util.remove_placement_group(ray.util.get_placement_group(self._group_name(name)))

    def terminate(self, name: str, boot: str) -> None:
        """Send the process of an actor SIGTERM: a worker hands its jobs back, and leaves."""
        if (handle := self._handles.get(name)) is not None:
            handle.terminate.remote(boot)

    def notices(self) -> dict[str, float]:
        """Nodes that Ray drains, and the Unix time at which they are gone; 0: no time was given."""
        return {node: deadline_ms / 1000 for node, deadline_ms in draining_nodes().items()}

    def lacking(self) -> str:
        """Return what the cluster lacks for one more worker; "": nothing."""
        order = self._order
        return lacking(machines(), order.gpus_per_worker, order.labels, order.machines_per_worker)

    def _full(self, name: str) -> str:
        return f"{self._order.pool}.{name}"

    def _group_name(self, name: str) -> str:
        return f"{NAMESPACE}.{self._full(name)}"


def machines() -> list[Machine]:
    """The machines of the cluster. What is free on each, Ray's libraries read in this way; the public API has the sum alone."""
    free = ray._private.state.available_resources_per_node()
    going = draining_nodes()
    return [
        Machine(
            total=node["Resources"].get("GPU", 0.0),
            free=free.get(node["NodeID"], {}).get("GPU", 0.0),
            labels=node["Labels"],
            going=node["NodeID"] in going,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def draining_nodes() -> dict[str, int]:
    """Node id -> deadline in ms, of nodes that are being drained. Ray has no public call for it; its own libraries use this one."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found

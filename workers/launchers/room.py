"""Reasons why no machine of a cluster has room for a worker: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field


class Machine(Struct, frozen=True, kw_only=True):
    """Machine of a cluster. `total`, `free`: the GPUs that it has, and those that nothing uses."""

    total: float
    free: float
    labels: Mapping[str, str] = field(default_factory=dict)
    #: It goes away, and takes nothing more.
    going: bool = False


def lacking(machines: Sequence[Machine], gpus: int, labels: Mapping[str, str]) -> str:
    """Return what the cluster lacks for one more worker of so many GPUs; "": nothing, it will be placed."""
    staying = [machine for machine in machines if not machine.going]
    fitting = [machine for machine in staying if labels.items() <= machine.labels.items()]
    those = f"{_machines(len(fitting))}{_with(labels)}"
    if not fitting:
        there = f"{len(staying)} {'is' if len(staying) == 1 else 'are'} there"
        return f"no machine has {_in_words(labels)} ({there})" if staying else "no machine is there"
    most = max(machine.total for machine in fitting)
    if most < gpus:
        return f"a worker takes {_gpus(gpus)} of one machine, and of {those} none has more than {most:g}"
    free = max(machine.free for machine in fitting)
    if free < gpus:
        has = "none has one free" if gpus == 1 else f"none has {gpus} free, at most {free:g}"
        return f"of {those}, {_gpus(sum(machine.total for machine in fitting))} in all, {has}"
    return ""


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"


def _with(labels: Mapping[str, str]) -> str:
    return f" with {_in_words(labels)}" if labels else ""


def _in_words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())

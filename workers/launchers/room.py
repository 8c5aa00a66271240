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


def lacking(machines: Sequence[Machine], gpus: int, labels: Mapping[str, str], spread: int = 1) -> str:
    """Return what the cluster lacks for one more worker of so many GPUs, of each of `spread` machines; "": nothing, it will be placed."""
    staying = [machine for machine in machines if not machine.going]
    fitting = [machine for machine in staying if labels.items() <= machine.labels.items()]
    those = f"{_machines(len(fitting))}{_with(labels)}"
    if not fitting:
        there = f"{len(staying)} {'is' if len(staying) == 1 else 'are'} there"
        return f"no machine has {_as_text(labels)} ({there})" if staying else "no machine is there"
    takes = f"a worker takes {_gpus(gpus)} of {'one machine' if spread == 1 else f'each of {spread} machines'}"
    # What the last of the machines that are needed has, which the others have as well.
    total = _at(spread, [machine.total for machine in fitting])
    if total < gpus:
        most = max(machine.total for machine in fitting)
        enough = sum(machine.total >= gpus for machine in fitting)
        has = f"none has more than {most:g}" if spread == 1 or not enough else f"{enough} {_have(enough)} as many"
        return f"{takes}, and of {those} {has}"
    if _at(spread, [machine.free for machine in fitting]) < gpus:
        return f"of {those}, {_gpus(sum(machine.total for machine in fitting))} in all, {_free(fitting, gpus, spread)}"
    return ""


def _at(spread: int, gpus: list[float]) -> float:
    return sorted(gpus, reverse=True)[spread - 1] if len(gpus) >= spread else 0.0


def _free(fitting: Sequence[Machine], gpus: int, spread: int) -> str:
    if enough := sum(machine.free >= gpus for machine in fitting):
        return f"{enough} {_have(enough)} {'one' if gpus == 1 else gpus} free, and a worker takes {spread} machines"
    most = max(machine.free for machine in fitting)
    return "none has one free" if gpus == 1 else f"none has {gpus} free, at most {most:g}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"


def _with(labels: Mapping[str, str]) -> str:
    return f" with {_as_text(labels)}" if labels else ""


def _as_text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())

"""Launchers by name, each imported when it is chosen: their libraries are extras."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from broker.runtime.settings import SettingsError
from workers.launchers.keeper import PoolStatus
from workers.launchers.order import Order


class LauncherError(Exception):
    """One sentence for the operator: the cluster or the launcher in it cannot be reached, or there is none."""


class Launcher(Protocol):
    """A module that keeps pools in a cluster. Its functions raise `LauncherError`."""

    def start(self, order: Order) -> PoolStatus:
        """Start the pool's launcher, in place of one that runs; returns what it finds."""

    def status(self, order: Order) -> PoolStatus:
        """Status of the pool, by its launcher."""

    def stop(self, order: Order, *, hand_back: bool) -> None:
        """Let all workers of the pool leave, wait for that, and end its launcher."""


def launcher(name: str) -> Launcher:
    """The launcher of this name. Raises `SettingsError` when its library is not installed."""
    try:
        return cast(Launcher, import_module(f"workers.launchers.{name}.commands"))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SettingsError(f"launcher: {name} is not installed: pip install 'zoetrope[serve,{name}]'") from None

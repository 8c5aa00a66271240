"""Checks of the object store of results at a process's start, so that a wrong setting is reported then and not by the first job.

A bucket that is not there, keys that may not use it, and a prefix of another service are `SettingsError`. A store that does not answer is
not: a machine that starts again while it is away shall serve and draw, as one that ran through does. That is one line in the log.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from broker.depot.object_store import ObjectStore, StoreError, StoreRefused, store_of
from broker.runtime import secret_file
from broker.runtime.log_actions import Action
from broker.runtime.settings import CommonSettings, SettingsError

log = logging.getLogger(__name__)

#: File of the home, and copied to the homes of a service's other machines with edges: the id that its prefix in the store is claimed with.
SERVICE_ID = "service_id"


def service_id(home: Path) -> str:
    """The id of this home's service; one is made where there is none. Raises `SettingsError`."""
    path = home / SERVICE_ID
    try:
        lines = secret_file.read_or_make(path, lambda: secrets.token_hex(8))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"results_store: the service's id cannot be read from {str(path)!r}: {error}") from None
    if len(lines) != 1 or len(lines[0]) > 64:
        raise SettingsError(
            f"results_store: {str(path)!r} must hold the service's id, one line of at most 64 characters"
        )
    return lines[0]


def check_edge(settings: CommonSettings) -> None:
    """Check that the store is there and may be used, and claim the prefix for this home's service. Raises `SettingsError`."""

    def claim(store: ObjectStore) -> None:
        own = service_id(settings.home_path)
        owner = store.claim(own)
        if owner != own:
            raise SettingsError(
                f"results_store: {settings.results_store!r} has the results of another service, {owner!r}, and this home's is {own!r}:"
                " name another prefix; or, if it is the same service, write its id to"
                f" {str(settings.home_path / SERVICE_ID)!r}"
            )
        next(store.below("artefacts"), None)

    _check(settings, claim)


def check_worker(settings: CommonSettings) -> None:
    """Check that the store is there and files may be put. Raises `SettingsError`."""
    _check(settings, ObjectStore.probe)


def check_now(settings: CommonSettings) -> bool:
    """Check that files may be put, without waiting for the store; returns whether they may be listed, too. Raises `SettingsError`,
    `StoreError`.
    """
    store = store_of(settings, at_start=True)
    if store is None:
        return True
    store.probe()
    try:
        next(store.below("artefacts"), None)
    except StoreRefused:
        # Keys of workers may do no more than put and get.
        return False
    return True


def _check(settings: CommonSettings, check: Callable[[ObjectStore], None]) -> None:
    store = store_of(settings, at_start=True)
    if store is None:
        return
    try:
        check(store)
    except StoreRefused as error:
        raise SettingsError(f"results_store: {settings.results_store!r} cannot be used: {error}") from None
    except StoreError as error:
        log.warning(
            "results_store does not answer; results wait until it does",
            extra={"action": Action.DEPOT, "store": settings.results_store, "reason": str(error)},
        )

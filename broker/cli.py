"""`python -m broker`: read the options, take the home, open the journal, serve, and log in one line why it ended."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from broker import backup_cli, keys_cli, set_aside_cli, usage_cli
from broker.core.machine import Core
from broker.depot import tokens
from broker.runtime import rlimits, signals
from broker.runtime import settings as runtime_settings
from broker.runtime.curve_keys import is_tcp, list_directory, listening_key
from broker.runtime.errors import BindFailed, HomeUnwritable, ShellError
from broker.runtime.log_actions import Action
from broker.runtime.logs import setup_logging
from broker.settings import BrokerSettings, check
from broker.shell.clock import Timeline, open_timeline
from broker.shell.housekeeping import Housekeeping
from broker.shell.journal.backup import LogHold
from broker.shell.journal.disk import Disk
from broker.shell.journal.journal import Journal
from broker.shell.journal.lock import BROKER_LOCK, Lock
from broker.shell.journal.sqlite_store import SqliteStore
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import Gate, Sockets, ipc_path
from broker.shell.on_demand_file import OnDemandFile
from broker.shell.recovery import Recovery
from broker.shell.router import Router
from broker.shell.server import Server
from broker.shell.stimuli import Stimuli

logger = logging.getLogger(__name__)

#: Why a directory cannot be made although its name is right.
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO)

DESCRIPTION = """The broker of a Zoetrope service: takes jobs from HTTP edges, keeps them in a journal (<home>/jobs.sqlite) until each has
reached its one final state, and gives them to GPU workers as these become free. One broker a home; start it first or last, edges and
workers find it. It can be killed and restarted at any time: accepted jobs are on disk, workers keep computing meanwhile.
`python -m broker keys` makes the keys that workers and edges on other machines need, `python -m broker set-aside` shows jobs that the
broker could not handle, `python -m broker usage` what was used by tenant, key, model and day; `python -m broker backup FILE` copies the
journal of a broker that runs, and `python -m broker restore FILE` puts a copy in its place.
Exit codes: 0 stopped by SIGTERM or SIGINT; 2 bad option, or another broker uses the home; 3 journal damaged, shorter than it was, or of a
newer version; 4 journal or home cannot be written; 5 disk full; 6 journal and memory disagree."""


def main(argv: Sequence[str]) -> int:
    """Run the broker, or one of the commands `keys`, `set-aside`, `usage`, `backup` and `restore`; returns the exit code."""
    if argv[:1] == ["keys"]:
        return keys_cli.main(argv[1:], os.environ)
    if argv[:1] == ["set-aside"]:
        return set_aside_cli.main(argv[1:], os.environ)
    if argv[:1] == ["usage"]:
        return usage_cli.main(argv[1:], os.environ)
    if argv[:1] in (["backup"], ["restore"]):
        return backup_cli.main(argv, os.environ)
    try:
        settings = runtime_settings.load(BrokerSettings, "python -m broker", "broker", argv, os.environ, DESCRIPTION)
        check(settings)
        setup_logging(settings.log_level, "broker", log_format=settings.log_format)
        run(settings)
    except runtime_settings.SettingsError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    except ShellError as error:
        print(f"broker: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(settings: BrokerSettings) -> None:
    """Serve until a signal stops it. Raises `SettingsError` or `ShellError`."""
    started = time.monotonic()
    home = settings.home_path
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"home: {str(home)!r} cannot be made: {error.strerror}"
        if error.errno in _UNWRITABLE:
            raise HomeUnwritable(message) from None
        raise runtime_settings.SettingsError(message) from None
    with ExitStack() as stack:
        # The lock comes before the journal and the sockets, and is let go after both.
        stack.callback(Lock(home / BROKER_LOCK).release)
        for endpoint in settings.endpoints.values():
            if not is_tcp(endpoint):
                stack.callback(_lock_endpoint(endpoint).release)
        disk = Disk(home, settings.journal_path, settings.min_free_mb << 20, settings.reserve_mb << 20)
        disk.check()
        store = SqliteStore(settings.journal_path, disk.release, accept_loss=settings.accept_journal_loss)
        journal = Journal(store, usage_keep_days=settings.usage_keep_days)
        stack.callback(journal.close)
        disk.watch_journal()
        clock = open_timeline(journal.clock.record(), new=journal.empty)
        journal.clock.stage(clock.record())
        core = Core(journal.epoch, settings.policy, clock(), partial(tokens.key_of, _depot_secret(home)))
        core.set_calendar(clock.calendar)
        gc.disable()  # nothing that is loaded is garbage
        recovery = Recovery(core, journal)
        jobs = recovery.load(clock())
        rlimits.allow_many()
        wires = _open_wires(settings)
        stack.callback(wires.close)
        logger.info(
            "journal loaded",
            extra={
                "action": Action.LOADED,
                "epoch": journal.epoch,
                "jobs": jobs,
                "set_aside": len(journal.asides),
                "start_s": time.monotonic() - started,
            },
        )
        _serve(settings, core, journal, LogHold(home, store), wires, disk, clock, recovery)
    logger.info("stopped", extra={"action": Action.STOPPED})


def _depot_secret(home: Path) -> str:
    """The newest secret of the depot. Raises `HomeUnwritable`."""
    try:
        return tokens.read_secrets(home)[0]
    except tokens.SecretError as error:
        raise HomeUnwritable(str(error)) from None


def _lock_endpoint(endpoint: str) -> Lock:
    """Lock the path of an ipc endpoint: brokers of two homes may be given one, and the second to bind it would cut off the first."""
    path = ipc_path(endpoint)
    runtime_settings.make_private_dir(path.parent)
    return Lock(path.with_name(path.name + ".lock"))


def _open_wires(settings: BrokerSettings) -> Sockets:
    """Listen. Raises `SettingsError`, or `BindFailed` naming the option."""
    try:
        return Sockets(settings.front_endpoint, settings.back_endpoint, _gate(settings))
    except BindFailed as error:
        name = next((name for name, endpoint in settings.endpoints.items() if endpoint == error.endpoint), "")
        raise BindFailed(f"{name}: {error}" if name else str(error), error.endpoint) from None


def _gate(settings: BrokerSettings) -> Gate | None:
    """The authentication of tcp peers, if there is a tcp endpoint. Raises `SettingsError`."""
    keyed = next(((name, endpoint) for name, endpoint in settings.endpoints.items() if is_tcp(endpoint)), None)
    if keyed is None:
        return None
    allowed = list_directory(settings.curve_path)
    key = listening_key(settings, *keyed)
    return Gate(key=key, allowed=allowed, front=settings.front_tcp, back=settings.back_tcp)


def _serve(
    settings: BrokerSettings,
    core: Core,
    journal: Journal,
    log_hold: LogHold,
    wires: Sockets,
    disk: Disk,
    clock: Timeline,
    recovery: Recovery,
) -> None:
    # What was loaded stays: no collection need walk it again. And few of the many small objects of a pass are ever part of a circle.
    gc.freeze()
    # Every new object is walked twice whatever these are, but all messages wait for a walk: some 2 ms for the first, 9 for the second.
    gc.set_threshold(10_000, 3, 3_000)
    gc.enable()
    limiter = PeerLimiter()
    metrics = Metrics(limiter)
    router = Router(
        core,
        journal,
        wires,
        disk,
        metrics,
        limiter,
        time.perf_counter,
        recovery,
        Stimuli(settings.home_path),
        check_invariants=settings.check_invariants,
    )
    metrics_file = Path(settings.metrics_file) if settings.metrics_file else None
    on_demand = OnDemandFile(settings.home_path, core.state.on_demand)
    on_demand.read()
    house = Housekeeping(core, journal, wires, router, disk, metrics, clock, metrics_file, (log_hold, on_demand))
    signals.hold()
    try:
        asyncio.run(Server(core, wires, router, clock, house).run())
    finally:
        log_hold.close()
    signals.deaf()

"""`python -m workers.rank`: settings in, rank host on."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence

from broker.runtime import log_context, rlimits, signals
from broker.runtime.curve_keys import peer_key_path, read_peer_key
from broker.runtime.settings import SettingsError, load
from workers.agent import stats
from workers.agent.clock import AwakeClock
from workers.gpu.library import Nvml
from workers.machines.endpoint import host_and_port
from workers.machines.host import Host
from workers.machines.sockets import HostSocket
from workers.rank.lives import Lives
from workers.rank.settings import RankSettings
from workers.rank.shell import RankShell
from workers.settings import ensure_temporary_directory
from workers.supervisor import gpus
from workers.supervisor.exit_codes import EXIT_SETTINGS
from workers.supervisor.gpus import Device
from workers.supervisor.heartbeat_file import HeartbeatFile
from workers.supervisor.parent_death import die_with_parent

_ENGINE = (sys.executable, "-m", "workers.engine.loop")

_DESCRIPTION = """\
Run the ranks that a group of GPUs over several machines has on this one. The machine that leads the group, which runs
`python -m workers --machines N --rank-endpoint tcp://ADDRESS:PORT`, has them started, given their models and ended. It may come and go:
this waits for it, and for its next start. Of the workers' options it reads gpus, curve_dir, home, stop_grace_s, heartbeat_file,
die_with_parent and those of the log; the model's files must be on this machine at the same place.
Exit codes: 0 stopped, or the group was drained; 2 an option is wrong, or the leader has another number of GPUs; 3 the group has all its
machines, or another version, or the broker does not want it. After one of these a launcher does not start it again; after any other it
does.
"""


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ, engine_command: Sequence[str] = _ENGINE) -> int:
    """Run the ranks until a signal stops them; returns the exit code (`workers.supervisor.exit_codes`)."""
    try:
        settings = load(RankSettings, "python -m workers.rank", "workers", argv, environ, _DESCRIPTION)
        if settings.die_with_parent:
            die_with_parent()
        shell = _shell(settings, environ, engine_command)
    except SettingsError as error:
        print(f"workers.rank: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    signals.check()
    end = shell.run()
    if end.code:
        print(f"workers.rank: {end.reason}", file=sys.stderr)
    return end.code


def _shell(settings: RankSettings, environ: Mapping[str, str], engine_command: Sequence[str]) -> RankShell:
    rlimits.allow_many()
    log_context.setup("workers.rank", settings.log_level, settings.log_format)
    ensure_temporary_directory(settings.home_path)
    if not settings.leader:
        raise SettingsError(
            "leader: none is given; write rank_endpoint of the machine that leads: tcp://10.0.0.1:29400"
        )
    leader, port = host_and_port("leader", settings.leader)
    device = _one(settings, gpus.resolve(settings.gpus, gpus.visible_gpus(environ, gpus.machine_gpus(Nvml()))))
    key_file = peer_key_path(settings, "worker", "leader", settings.leader)
    assert key_file is not None
    clock = AwakeClock()
    host = Host(uuid.uuid4().hex, socket.gethostname()[:256], len(device.visible), clock.now())
    logs = {"ZOETROPE_LOG_LEVEL": settings.log_level, "ZOETROPE_LOG_FORMAT": settings.log_format}
    return RankShell(
        host,
        HostSocket(settings.leader, read_peer_key(key_file, "worker")),
        Lives(engine_command, device.visible, {**environ, **logs}, (leader, port), settings.home_path),
        stats.sampler(device.kind, device.visible, Nvml()),
        HeartbeatFile(settings.heartbeat_file),
        clock,
        settings.stop_grace_s,
    )


def _one(settings: RankSettings, devices: tuple[Device, ...]) -> Device:
    """All of this machine's GPUs for the group, as one device, whether or not their number stands behind a slash."""
    if len(devices) == 1:
        return devices[0]
    if "/" in settings.gpus:
        raise SettingsError(
            f"gpus: {settings.gpus!r} makes {len(devices)} groups, and this machine has its part of one; write its GPUs alone, as 0-7"
        )
    (device,) = gpus.groups(settings.gpus, devices, len(devices))
    return device

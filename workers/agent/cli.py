"""Start one agent: `python -m workers.agent --link FD`, run by the supervisor alone."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from broker.depot.object_store import ObjectStore
from broker.runtime import log_context, signals
from broker.runtime.curve_keys import PeerKey, read_peer_key
from broker.runtime.settings import SettingsError
from broker.wire.messages import WorkerInfo
from workers.agent import stats
from workers.agent.broker_socket import BrokerSocket
from workers.agent.clock import AwakeClock
from workers.agent.core import AgentCore
from workers.agent.dirs import WorkerDirs
from workers.agent.errors import AddressError, AgentError, LinkError
from workers.agent.identity import Identity
from workers.agent.machines import Machines
from workers.agent.shell import AgentShell
from workers.agent.worker_files import WorkerFiles
from workers.depot.http_depot import HttpDepot
from workers.depot.input_cache import InputCache
from workers.depot.s3_depot import S3Depot
from workers.depot.transfers import Transfers
from workers.gpu.library import Nvml
from workers.ipc.channel import Channel, IpcError
from workers.ipc.messages import Setup
from workers.models.versions import installed
from workers.supervisor.exit_codes import EXIT_RESTART, EXIT_SETTINGS
from workers.supervisor.messages import AgentConfig

logger = logging.getLogger(__name__)

_ENGINE = (sys.executable, "-m", "workers.engine.loop")


def main(argv: Sequence[str]) -> int:
    """Run the agent; returns its exit code (`workers.supervisor.exit_codes`)."""
    parser = argparse.ArgumentParser(prog="workers.agent", description="One agent. Started by `python -m workers`.")
    parser.add_argument("--link", type=int, required=True, help="descriptor of the supervisor's socketpair")
    parser.add_argument("--name", default="", help="for `ps` alone")
    options = parser.parse_args(argv)
    try:
        link = Channel(socket.socket(fileno=options.link), AgentConfig)
        config = _receive_config(link)
        log_context.setup(config.name, config.log_level, config.log_format)
        shell = _shell(config, link)
        signals.check()
        return shell.run()
    except AddressError as error:
        print(f"workers.agent: {error}", file=sys.stderr)
        return EXIT_RESTART
    except AgentError as error:
        print(f"workers.agent: {error}", file=sys.stderr)
        return EXIT_SETTINGS


def _receive_config(link: Channel) -> AgentConfig:
    try:
        config = link.receive()
    except (IpcError, OSError) as error:
        raise LinkError(f"the supervisor's configuration cannot be read: {error}") from None
    if not isinstance(config, AgentConfig):
        raise LinkError
    link.sock.setblocking(False)
    return config if config.engine_command else structs.replace(config, engine_command=_ENGINE)


def _shell(config: AgentConfig, link: Channel) -> AgentShell:
    sampler = stats.sampler(config.device, config.visible, Nvml())
    info = WorkerInfo(
        host=socket.gethostname()[:256],
        pid=os.getpid(),
        device=sampler.device[:256],
        gpus=config.machines * len(config.visible),
        version=_version(),
        models=config.models,
        lora_memory=config.lora_memory,
        versions=dict(installed()),
    )
    setup = Setup(
        models=config.models,
        preload=config.preload,
        device=config.device,
        threads=config.threads,
        dtype=config.dtype,
        overlap=config.overlap,
        checkpoint_s=config.checkpoint_s,
        credentials=config.credentials,
        setups=config.setups,
        peaks=config.peaks,
        lora_memory=config.lora_memory,
    )
    clock = AwakeClock()
    files = _files(config)
    identity = Identity(
        name=config.name,
        boot=uuid.uuid4().hex,
        info=info,
        setup=setup,
        dirs=files.dirs,
        yields=config.yields,
        machines=config.machines,
    )
    core = AgentCore(identity, config.policy, clock.now(), files.left)
    machines = Machines(config)
    broker = BrokerSocket(config.endpoint, _key(config))
    return AgentShell(core, config, link, sampler, broker, clock, files, machines)


def _files(config: AgentConfig) -> WorkerFiles:
    dirs = WorkerDirs(artefacts=config.artefacts, spool=config.spool, inputs=config.inputs)
    if not dirs.remote:
        return WorkerFiles(dirs, None)
    cache = InputCache(Path(config.inputs), config.input_cache_bytes)
    edge = HttpDepot(config.depot, config.name)
    depot = S3Depot(ObjectStore.of(config.results_store, sends=True), edge) if config.results_store else edge
    return WorkerFiles(dirs, Transfers(depot, cache), yields=config.yields)


def _key(config: AgentConfig) -> PeerKey | None:
    """The key of a tcp endpoint. Raises `LinkError`."""
    if not config.key_file:
        return None
    try:
        return read_peer_key(Path(config.key_file), "worker")
    except SettingsError as error:
        raise LinkError(str(error)) from None


def _version() -> str:
    try:
        return importlib.metadata.version("zoetrope")
    except importlib.metadata.PackageNotFoundError:
        return ""

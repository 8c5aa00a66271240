"""`python -m workers`: settings in, supervisor on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from broker.depot.store_check import check_worker
from broker.runtime import log_context, rlimits, signals
from broker.runtime.settings import SettingsError, check_endpoint, load, make_socket_dir, read_config
from workers.gpu.library import Nvml
from workers.settings import WorkerSettings, agent_configs, ensure_temporary_directory, read_models
from workers.supervisor import drain, gpus, heartbeat_file
from workers.supervisor.cores import usable_cores
from workers.supervisor.exit_codes import EXIT_SETTINGS
from workers.supervisor.messages import AgentConfig
from workers.supervisor.parent_death import die_with_parent
from workers.supervisor.supervisor import Supervisor

_DESCRIPTION = """\
Run one worker for each GPU: an agent, which talks to the broker, and its engine, which holds the model and draws. A worker that
dies is started again, at once and then with growing pauses; SIGTERM or SIGINT hands all jobs back to the broker and
ends within four seconds. Workers may start before the broker, and outlive its restarts.
`python -m workers drain NAME` lets a worker finish its job and leave; `python -m workers pull MODEL` fetches one from the hub;
`python -m workers healthy` is a probe for containers; `python -m workers --launcher ray` keeps workers on a Ray cluster (--help).
Exit codes: 0 stopped or drained; 2 an option is wrong; 3 the broker refused all workers; 4 no worker can load its model. After one of
these a launcher does not start it again; after any other it does.
"""


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the workers until a signal stops them; returns the exit code (`workers.supervisor.exit_codes`)."""
    if argv[:1] == ["drain"]:
        return drain.main(argv[1:], environ)
    if argv[:1] == ["healthy"]:
        return heartbeat_file.main(argv[1:], environ)
    if argv[:1] == ["pull"]:
        # A process of its own: the hub's client takes half a second and 20 MB that no supervisor needs.
        os.execv(sys.executable, [sys.executable, "-m", "workers.pull", *argv[1:]])
    if any(word == "--launcher" or word.startswith("--launcher=") for word in argv):
        os.execv(sys.executable, [sys.executable, "-m", "workers.launchers", *argv])
    try:
        settings = load(WorkerSettings, "python -m workers", "workers", argv, environ, _DESCRIPTION)
        if settings.die_with_parent:
            die_with_parent()
        configs = _configure(settings, argv, environ)
    except SettingsError as error:
        print(f"workers: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    signals.check()
    supervisor = Supervisor(configs, heartbeat_file=settings.heartbeat_file)
    code = supervisor.run()
    if supervisor.fault:
        print(f"workers: {supervisor.fault}", file=sys.stderr)
    return code


def _configure(settings: WorkerSettings, argv: Sequence[str], environ: Mapping[str, str]) -> tuple[AgentConfig, ...]:
    rlimits.allow_many()
    log_context.setup("workers", settings.log_level, settings.log_format)
    ensure_temporary_directory(settings.home_path)
    check_endpoint("back", settings.back_endpoint)
    devices = gpus.resolve(settings.gpus, gpus.visible_gpus(environ, gpus.machine_gpus(Nvml())))
    models = read_models(settings, _model_tables(argv, environ))
    make_socket_dir("back", settings.back, settings.back_endpoint)
    configs = agent_configs(settings, devices, models, usable_cores(), environ)
    check_worker(settings)
    return configs


def _model_tables(argv: Sequence[str], environ: Mapping[str, str]) -> Mapping[str, object]:
    """[models] of the configuration file that `load` read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, _ = parser.parse_known_args(argv)
    tables = read_config(known.config, environ).get("models", {})
    if not isinstance(tables, dict):
        raise SettingsError("zoetrope.toml: [models] must be a table of tables; write [models.NAME]")
    return tables

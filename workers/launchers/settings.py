"""The options of `python -m workers --launcher NAME`, and the order made of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from broker.runtime.settings import CommonSettings, SettingsError, check_endpoint, describe, load, read_config
from broker.wire.submission import MAX_GPUS
from workers.launchers.order import Order
from workers.launchers.plan import Limits
from workers.models import catalogue
from workers.models.sources import CatalogueError
from workers.settings import DEMO, WorkerSettings
from workers.supervisor.name_prefix import AUTO
from zoetrope.client.errors import ZoetropeError
from zoetrope.client.requests import address

PROGRAM = "python -m workers --launcher"

#: Launchers that there are.
LAUNCHERS = ("ray",)

_DESCRIPTION = """\
Keep as many workers on the machines of a Ray cluster as the work that waits calls for. The command starts a launcher in the cluster, or
gives the one that runs there new options, and returns; workers that run are left alone. --status shows the pool in place of that; --stop
lets all its workers leave after their jobs, with --hand-back at once, and ends the launcher. Options of workers (python -m workers --help)
may be given as well; they and zoetrope.toml count for every worker. Exit codes: 0 done; 1 the cluster or the launcher cannot be reached,
or no pool of that name is there; 2 an option is wrong.
"""


class LauncherSettings(CommonSettings, frozen=True, kw_only=True):
    """Keep workers on the machines of a cluster."""

    pool: Annotated[
        str,
        Meta(
            description="name of the pool: its workers are POOL.w0, POOL.w1 …; one launcher a pool, and a pool for each choice of models",
            pattern=r"^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$",
            extra={"rule": "up to 24 small letters, digits and -, none of these at its ends"},
        ),
    ] = "pool"
    min_workers: Annotated[
        int,
        Meta(
            description="workers that are there when nothing waits; with 0, name the pool's models in on_demand_models of the broker, so"
            " that jobs for them are taken all the same",
            ge=0,
            le=10_000,
        ),
    ] = 1
    max_workers: Annotated[int, Meta(description="workers that there are at most", ge=1, le=10_000)] = 8
    target_wait_s: Annotated[
        float,
        Meta(
            description="seconds in which the work that waits should be done: more workers come for more", gt=0, le=1e6
        ),
    ] = 120.0
    idle_s: Annotated[
        float,
        Meta(description="seconds for which fewer workers must have been enough before some leave", ge=0, le=1e6),
    ] = 300.0
    ray_address: Annotated[
        str,
        Meta(
            description="the cluster, HOST:PORT of its head; auto: RAY_ADDRESS, else the one that this machine is part of",
            min_length=1,
        ),
    ] = "auto"
    node_label: Annotated[
        tuple[str, ...],
        Meta(description="labels that a machine must have for a worker, as gpu=h100, separated by commas"),
    ] = ()
    gpus_per_worker: Annotated[
        int,
        Meta(
            description="GPUs of one machine that each worker takes, and draws each job with; 0 for none (with --gpus cpu)",
            ge=0,
            le=MAX_GPUS,
        ),
    ] = 1
    machines_per_worker: Annotated[
        int,
        Meta(
            description="different machines that each worker is spread over: it takes gpus_per_worker of each of them, all at once or none,"
            " and draws each job with all of these",
            ge=1,
            le=MAX_GPUS,
        ),
    ] = 1
    gpu_class: Annotated[
        str,
        Meta(
            description="class of the pool's workers as `backlog_by_class` of GET /v1/workers names it (1x-nvidia-h100-80gb-hbm3): count"
            " what waits for it alone, where pools of other cards have the same models; default: all that waits for the models",
            pattern=r"^([1-9][0-9]{0,3}x-[a-z0-9]+(-[a-z0-9]+)*)?$",
            extra={"rule": "GPUs of a worker, x- and its card in small letters, digits and -"},
        ),
    ] = ""
    worker_python: Annotated[
        str,
        Meta(
            description="Python that runs the workers, an absolute path on every machine; default: that which runs Ray"
        ),
    ] = ""
    url: Annotated[
        str, Meta(description="an edge of the service, to ask what waits and to drain workers; default: the depot's")
    ] = ""
    api_key_file: Annotated[
        str, Meta(description="file with the API key for that edge, on the head of the cluster; default: none is sent")
    ] = ""

    def limits(self) -> Limits:
        """The bounds of the pool. Raises `SettingsError`."""
        if self.min_workers > self.max_workers:
            raise SettingsError(
                f"min_workers: {self.min_workers} must not be above max_workers, which is {self.max_workers}"
            )
        names = Limits.__struct_fields__
        return Limits(**{name: getattr(self, name) for name in names})

    def check_size(self, *, on_cpu: bool) -> None:
        """Raise `SettingsError` where workers of this size cannot be."""
        each, machines = self.gpus_per_worker, self.machines_per_worker
        if each == 0 and not on_cpu:
            raise SettingsError("gpus_per_worker: 0 is for workers without a GPU; give --gpus cpu as well")
        if each == 0 and machines > 1:
            raise SettingsError(
                f"gpus_per_worker: 0 is for workers of one machine, and machines_per_worker is {machines}: with --gpus cpu, too,"
                " it says how many processes each machine has"
            )
        if each * machines > MAX_GPUS:
            raise SettingsError(
                f"machines_per_worker: {machines} machines of {each} GPUs (gpus_per_worker) make a worker of {each * machines};"
                f" it may have {MAX_GPUS}"
            )

    def labels(self) -> dict[str, str]:
        """Labels that each machine must have. Raises `SettingsError`."""
        pairs = [entry.partition("=") for entry in self.node_label]
        for entry, (name, equals, value) in zip(self.node_label, pairs, strict=True):
            if not (name and equals and value):
                raise SettingsError(f"node_label: {entry!r} must be NAME=VALUE, as gpu=h100")
        return {name: value for name, _, value in pairs}


class Command(Struct, frozen=True, kw_only=True):
    """Request to a launcher."""

    launcher: str
    order: Order
    status: bool = False
    stop: bool = False
    hand_back: bool = False


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Command:
    """Read the command line, environment and zoetrope.toml. Raises `SettingsError`; `--help` exits."""
    asked, own, rest = _split(argv)
    settings = load(LauncherSettings, f"{PROGRAM} {asked.launcher}", "launcher", own, environ, _DESCRIPTION)
    worker = load(WorkerSettings, f"{PROGRAM} {asked.launcher}", "workers", rest, environ)
    if asked.launcher not in LAUNCHERS:
        raise SettingsError(f"launcher: {asked.launcher!r} must be {' or '.join(LAUNCHERS)}")
    if asked.hand_back and not asked.stop:
        raise SettingsError("hand_back: it says how to --stop, which is not there")
    if asked.status and asked.stop:
        raise SettingsError("status: either look at the pool, or --stop it")
    order = _order(settings, worker, read_config(asked.config, environ), _config_file(asked.config, environ))
    return Command(
        launcher=asked.launcher, order=order, status=asked.status, stop=asked.stop, hand_back=asked.hand_back
    )


def _split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """(the command's own words, options of the launcher, options of workers)."""
    shared = {row.name for row in describe(CommonSettings)}
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} ray", add_help=False, allow_abbrev=False)
    parser.add_argument("--launcher", required=True)
    parser.add_argument("--config")
    for word in ("status", "stop", "hand-back", "help"):
        parser.add_argument(f"--{word}", action="store_true", default=False)
    own_names = [row for row in describe(LauncherSettings) if row.name not in shared]
    for row in own_names:
        parser.add_argument(row.flag)
    asked, rest = parser.parse_known_args(argv)
    own = [f"{row.flag}={value}" for row in own_names if (value := getattr(asked, row.name)) is not None]
    config = [f"--config={asked.config}"] if asked.config else []
    return asked, [*own, *config, *(["--help"] if asked.help else [])], [*rest, *config]


def _config_file(named: str | None, environ: Mapping[str, str]) -> Path:
    return Path(named or environ.get("ZOETROPE_CONFIG") or "zoetrope.toml").absolute()


def _order(settings: LauncherSettings, worker: WorkerSettings, config: Mapping[str, Any], file: Path) -> Order:
    if worker.gpus not in ("auto", "cpu"):
        raise SettingsError(f"gpus: {worker.gpus!r} must be left out, or cpu: the cluster gives each worker its GPUs")
    if worker.machines > 1 or worker.rank_endpoint:
        raise SettingsError(
            "machines: it must be left out, and rank_endpoint as well: the launcher gives them to each worker; say machines_per_worker"
        )
    settings.check_size(on_cpu=worker.gpus == "cpu")
    if settings.worker_python and not Path(settings.worker_python).is_absolute():
        raise SettingsError(f"worker_python: {settings.worker_python!r} must be an absolute path")
    check_endpoint("back", worker.back_endpoint)
    try:
        url = address(settings.url or worker.depot_url() or "http://127.0.0.1:8000", "").url
    except ZoetropeError as error:
        raise SettingsError(str(error)) from None
    tables = config.get("models", {})
    # The tables have no flags: each machine reads the file, where this one has it.
    read_there = ("--config", str(file)) if tables else ()
    each, on_cpu = settings.gpus_per_worker, worker.gpus == "cpu"
    shared = (*read_there, *_arguments(worker, tables))
    return Order(
        pool=settings.pool,
        limits=settings.limits(),
        ray_address=settings.ray_address,
        labels=settings.labels(),
        gpus_per_worker=each,
        machines_per_worker=settings.machines_per_worker,
        gpu_class=settings.gpu_class,
        python=settings.worker_python,
        arguments=(*shared, "--gpus", _group(each, on_cpu=on_cpu)),
        rank_arguments=(*shared, "--gpus", _devices(each, on_cpu=on_cpu)) if settings.machines_per_worker > 1 else (),
        # What `auto` is for, the names of the pool do.
        prefix="" if worker.name_prefix == AUTO else worker.name_prefix,
        models=_model_names(worker, tables),
        home=str(worker.home_path),
        url=url,
        api_key_file=str(Path(settings.api_key_file).expanduser().absolute()) if settings.api_key_file else "",
        threads=worker.threads,
        stop_grace_s=worker.stop_grace_s,
    )


#: Options that are paths, which mean the same on each machine only when they are absolute.
_PATHS = ("home", "run_dir", "curve_dir", "signing_certificate", "signing_key")
#: Options that the launcher sets by itself, for each worker.
_SET_HERE = ("name_prefix", "gpus", "machines", "rank_endpoint", "die_with_parent", "home", "heartbeat_file")


def _arguments(worker: WorkerSettings, tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags with the values of these settings, for a machine with other files and variables."""
    flags = ["--home", str(worker.home_path), "--die-with-parent", "true"]
    for option in msgspec.structs.fields(WorkerSettings):
        value = getattr(worker, option.name)
        if option.name in _SET_HERE or value == option.default:
            continue
        if option.name in _PATHS:
            value = Path(value).expanduser().absolute()
        elif option.name == "model":
            value = _source(value, tables)
        elif option.name == "models":
            value = ",".join(_source(one, tables) for one in value)
        elif isinstance(value, bool):
            value = str(value).lower()
        flags += ["--" + option.name.replace("_", "-"), str(value)]
    return tuple(flags)


def _group(gpus: int, *, on_cpu: bool) -> str:
    """Return `--gpus` of a worker, which takes all that Ray gives it as one group."""
    return _devices(gpus, on_cpu=on_cpu) + (f"/{gpus}" if gpus > 1 else "")


def _devices(gpus: int, *, on_cpu: bool) -> str:
    """Devices of one machine. Not auto: a machine whose driver does not work must not come as one without GPUs."""
    if gpus <= 1:
        return "cpu" if on_cpu else "0"
    return f"cpu:{gpus}" if on_cpu else f"0-{gpus - 1}"


def _source(model: str, tables: Mapping[str, Any]) -> str:
    path = Path(model).expanduser()
    local = model not in tables and model != DEMO and (path.exists() or model.startswith(("./", "../", "~")))
    return str(path.absolute()) if local else model


def _model_names(worker: WorkerSettings, tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Names that the pool's models will have; workers that are there report them themselves."""
    wanted = [name for name in (worker.model, *worker.models) if name] or [*tables] or [DEMO]
    return tuple(name if name in tables or name == DEMO else _usual_name(name) for name in wanted)


def _usual_name(source: str) -> str:
    try:
        return catalogue.model_for(source).card.name
    except CatalogueError:
        # It is on the other machines, and may have its name there.
        return Path(source).name if source.startswith(("/", "~", ".")) else source

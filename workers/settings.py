"""The options of `python -m workers`, each written once, and what is made of them: devices, model cards, one configuration an agent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from broker.depot.object_store import store_of
from broker.runtime.content_credentials import checked_files
from broker.runtime.curve_keys import is_tcp, peer_key_path, read_peer_key, worker_prefix
from broker.runtime.settings import EDGE_PORT, CommonSettings, SettingsError
from broker.wire.jobspec import ModelCard
from broker.wire.loras import LoraMemory
from broker.wire.submission import MAX_GPUS
from workers.machines.endpoint import host_and_port
from workers.models import catalogue
from workers.models.model import Model
from workers.models.parallel import on_group
from workers.models.sources import CatalogueError, find, why_not_here
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.gpus import Device
from workers.supervisor.messages import AgentConfig
from workers.supervisor.name_prefix import AUTO, automatic

#: A `Hello` carries at most so many cards.
_MAX_MODELS = 64

#: The most that a cancel may take on a group of GPUs, seconds: it is obeyed between passes, the longest of which takes less.
_GROUP_CANCEL_S = 300.0

#: The depot that is this machine's disk.
LOCAL = "local"

#: Name of the model that comes along.
DEMO = "demo"


class WorkerSettings(CommonSettings, frozen=True, kw_only=True):
    """Run one worker for each GPU: an agent that is connected to the broker, and an engine that draws."""

    gpus: Annotated[
        str,
        Meta(
            description="what to run workers on: 0-7, or 0,2,5-7 (numbers as in nvidia-smi), 0:1 (the second MIG slice of GPU 0), UUIDs as "
            "nvidia-smi -L lists them, auto (all GPUs and MIG slices, else one CPU worker), cpu, or cpu:N (N CPU workers); /N behind it "
            "makes groups of N that draw one job together: 0-3/2 (GPUs 0 and 1, and 2 and 3), auto/4, cpu:4/2"
        ),
    ] = "auto"
    machines: Annotated[
        int,
        Meta(
            description="machines that the one group of gpus spans, this one among them; each of the others runs python -m workers.rank"
            " with as many GPUs",
            ge=1,
            le=MAX_GPUS,
        ),
    ] = 1
    rank_endpoint: Annotated[
        str,
        Meta(
            description="where this machine waits for the others of its group: tcp://ADDRESS:PORT, an address of its own by which they"
            " reach it; all of them have the same key, worker.key in curve_dir"
        ),
    ] = ""
    model: Annotated[
        str,
        Meta(
            description="the model to hold in memory from the start: a diffusers directory, a hub id, the NAME of a [models.NAME] table "
            "in zoetrope.toml, demo, or fake; none given: all [models.NAME] tables, the first one first, or without any the demo model"
        ),
    ] = ""
    models: Annotated[
        tuple[str, ...],
        Meta(description="more models, separated by commas, that jobs may ask for; loaded when the first of them does"),
    ] = ()
    name_prefix: Annotated[
        str,
        Meta(
            description="put before each worker's name (gpu-0, cpu-0), to tell hosts apart; over tcp the name of the key comes before it;"
            " auto: the environment's POD_NAME, else the Slurm task, else the host's name (and CUDA_VISIBLE_DEVICES where it is set)",
            pattern=r"^[A-Za-z0-9_.-]{0,64}$",
            extra={"rule": "up to 64 letters, digits, _, . and -"},
        ),
    ] = ""
    depot: Annotated[
        str,
        Meta(
            description="where the files of jobs go: local, the directory <home>/artefacts, which the edges share; or the URL of an edge,"
            " to which they are sent; default: local, and over tcp http://HOST:8000, the HOST that of back"
        ),
    ] = ""
    spool_mb: Annotated[
        int,
        Meta(
            description="results, MB, that may wait on each worker's disk to be sent to the depot; beyond it no new job is taken",
            ge=1,
            le=2**30,
        ),
    ] = 10_000
    input_cache_mb: Annotated[
        int,
        Meta(
            description="inputs of jobs, MB, that are kept on this machine when they came from a depot", ge=1, le=2**30
        ),
    ] = 2_000
    put_budget_s: Annotated[
        float,
        Meta(
            description="for how long it is tried to send a job's files to the depot before the attempt fails",
            gt=0,
            le=1e6,
        ),
    ] = 3600.0
    fetch_budget_s: Annotated[
        float,
        Meta(
            description="for how long it is tried to fetch a job's inputs from the depot before it is handed back",
            gt=0,
            le=1e6,
        ),
    ] = 600.0
    checkpoint_put_s: Annotated[
        float,
        Meta(
            description="seconds between two checkpoints of a running job that are sent to the depot, from which workers of other machines"
            " go on; 0: none are sent",
            ge=0,
            le=1e6,
        ),
    ] = 60.0
    heartbeat_file: Annotated[
        str,
        Meta(
            description="file that is written every 5 s while the workers' supervisor lives, for probes (python -m workers healthy);"
            " default: none"
        ),
    ] = ""
    die_with_parent: Annotated[
        bool,
        Meta(description="end as by SIGTERM when the process that started this one ends without a word (Linux)"),
    ] = False
    threads: Annotated[
        int,
        Meta(description="torch CPU threads of an engine; 0: the cores shared out among CPU workers", ge=0, le=1024),
    ] = 0
    dtype: Annotated[
        str,
        Meta(
            description="weights in memory: auto (bfloat16 on a GPU that has it, else float32), float32, float16, bfloat16",
            pattern="^(auto|float32|float16|bfloat16)$",
        ),
    ] = "auto"
    overlap: Annotated[
        bool,
        Meta(
            description="decode, encode and save a job while the next one is denoised, where both fit into memory; "
            "false: one job after the other"
        ),
    ] = True
    checkpoint_s: Annotated[
        float,
        Meta(
            description="seconds of denoising between two checkpoints of a job, from which it goes on after its engine, worker or machine "
            "has died; 0: none are written but where a job is parked, and it begins anew",
            ge=0,
            le=1e6,
        ),
    ] = 10.0
    spare_engine: Annotated[
        bool,
        Meta(
            description="keep, for each GPU worker, a second engine process with its imports done, which takes the place of one that "
            "ends; it holds no GPU memory, and some hundred MB of the machine's"
        ),
    ] = True
    lora_host_mb: Annotated[
        int,
        Meta(
            description="memory of the machine, MB, in which each worker keeps LoRA files as it read them; "
            "the least recently used go first",
            ge=0,
            le=2**30,
        ),
    ] = LoraMemory().host_mb
    lora_device_mb: Annotated[
        int,
        Meta(
            description="GPU memory, MB, in which LoRAs stay beside the weights of each model when no job asks for them; "
            "the least recently used go first; 0: none stays",
            ge=0,
            le=2**30,
        ),
    ] = LoraMemory().device_mb
    load_budget_s: Annotated[
        float, Meta(description="an engine that loads a model without an end for this long is replaced", gt=0, le=1e6)
    ] = 1800.0
    encode_budget_s: Annotated[
        float, Meta(description="silence after which encoding the prompt counts as stuck", gt=0, le=1e6)
    ] = 300.0
    step_floor_s: Annotated[
        float,
        Meta(
            description="silence after which a denoising step counts as stuck, if five predicted steps are shorter",
            gt=0,
            le=1e6,
        ),
    ] = 30.0
    first_step_budget_s: Annotated[
        float, Meta(description="the same before the first step ends (kernels are compiled and tuned)", gt=0, le=1e6)
    ] = 300.0
    decode_budget_s: Annotated[
        float, Meta(description="silence after which decoding counts as stuck", gt=0, le=1e6)
    ] = 600.0
    save_budget_s: Annotated[
        float, Meta(description="silence after which writing the file counts as stuck", gt=0, le=1e6)
    ] = 600.0
    cancel_grace_s: Annotated[
        float,
        Meta(
            description="a cancel may take two predicted steps and this long; then the engine is replaced",
            ge=0,
            le=3600,
        ),
    ] = 2.0
    cancel_grace_max_s: Annotated[
        float,
        Meta(
            description="the longest that a cancel may take, however long steps are or were predicted to be, before the engine is killed; "
            "on a group of GPUs, where it is obeyed between passes, at least 300",
            gt=0,
            le=3600,
        ),
    ] = 30.0
    stop_grace_s: Annotated[
        float,
        Meta(
            description="when asked to stop: how long running jobs may go on before they are handed back, those that can be parked after "
            "their next step; honcho leaves time for 3, systemd for 80; 0: at once; a second signal ends the grace",
            ge=0,
            le=1e6,
        ),
    ] = 3.0
    detached_s: Annotated[
        float,
        Meta(description="without a word from the broker for this long, the running job is given up", gt=0, le=1e6),
    ] = 900.0

    def policy(self) -> AgentPolicy:
        """The numbers that an agent decides by."""
        shared = {name: getattr(self, name) for name in AgentPolicy.__struct_fields__ if hasattr(self, name)}
        return AgentPolicy(spool_bytes=self.spool_mb * 1e6, **shared)

    def depot_url(self) -> str:
        """URL of the edge that is the depot; "": it is this machine's disk. Raises `SettingsError`."""
        chosen = self.depot
        if not chosen and is_tcp(self.back_endpoint):
            host = self.back_endpoint.removeprefix("tcp://").rpartition(":")[0]
            chosen = f"http://{host}:{EDGE_PORT}"
        if chosen in ("", LOCAL):
            return ""
        try:
            parts = urlsplit(chosen)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or parts.username is not None:
            raise SettingsError(f"depot: {chosen!r} must be {LOCAL}, or the URL of an edge: http://10.0.0.1:8000")
        return chosen.rstrip("/")


def read_models(settings: WorkerSettings, tables: Mapping[str, Any]) -> tuple[Model, ...]:
    """All models, the one to preload first; `tables` is [models] of zoetrope.toml. Raises `SettingsError`."""
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(
                f"zoetrope.toml: [models] holds tables only, and {name!r} is none; write [models.{name}]"
            )
    wanted = [name for name in (settings.model, *settings.models) if name] or [*tables] or [DEMO]
    models: dict[str, Model] = {}
    try:
        for source in wanted:
            if source == DEMO and DEMO not in tables:
                model = catalogue.model_for(str(catalogue.default_model()), name=DEMO)
            elif source in tables:
                model = catalogue.model_for(source, source, tables[source])
            else:
                model = catalogue.model_for(source)
            _check_here(model.card, source in tables)
            if models.setdefault(model.card.name, model) != model:
                raise SettingsError(
                    f"models: two models bear the name {model.card.name!r}; give one its own [models.NAME] table"
                )
    except CatalogueError as error:
        raise SettingsError(str(error)) from None
    if len(models) > _MAX_MODELS:
        raise SettingsError(f"models: {len(models)} are named, at most {_MAX_MODELS} are possible")
    return tuple(models.values())


def _check_here(card: ModelCard, has_table: bool) -> None:
    """Raise for a model whose class is named and whose weights are not on this machine: engines fetch nothing."""
    if card.engine != catalogue.FAKE and not Path(card.source).is_file() and find(card.source) is None:
        raise CatalogueError(
            catalogue.named(card.name, has_table), "path" if has_table else "", why_not_here(card.source)
        )


def agent_configs(
    settings: WorkerSettings,
    devices: tuple[Device, ...],
    models: tuple[Model, ...],
    cores: int,
    environ: Mapping[str, str] = os.environ,
) -> tuple[AgentConfig, ...]:
    """One configuration a device. `cores` are shared out among the CPU workers' processes.

    Over tcp, names begin with that of the key. Raises `SettingsError` when there is none.
    """
    on_cpu = sum(len(device.visible) for device in devices if device.kind == "cpu")
    share = max(1, cores // on_cpu) if on_cpu else 0
    key_file = peer_key_path(settings, "worker", "back", settings.back_endpoint)
    policy = settings.policy()
    rank_key = _check_machines(settings, devices)
    credentials = checked_files(settings)
    depot = _checked_depot(settings)
    prefix = _prefix(settings, key_file, environ)
    return tuple(
        AgentConfig(
            name=prefix + device.name,
            endpoint=settings.back_endpoint,
            key_file=str(key_file or ""),
            artefacts=str(settings.artefacts_path),
            depot=depot,
            results_store=settings.results_store,
            spool=str(settings.home_path / "spool" / (prefix + device.name)) if depot else "",
            inputs=str(settings.home_path / "inputs") if depot else "",
            input_cache_bytes=settings.input_cache_mb * 1_000_000,
            peaks=str(settings.home_path / "peaks.json"),
            lora_memory=LoraMemory(host_mb=settings.lora_host_mb, device_mb=settings.lora_device_mb),
            device=device.kind,
            visible=device.visible,
            machines=settings.machines,
            rank_endpoint=settings.rank_endpoint,
            rank_key_file=str(rank_key or ""),
            models=tuple(
                on_group(model.card, model.setup.parallel, settings.machines * len(device.visible)) for model in models
            ),
            setups={
                model.card.name: msgspec.structs.replace(model.setup, compiled=str(settings.home_path / "compiled"))
                for model in models
            },
            preload=models[0].card.name,
            threads=settings.threads or (share if device.kind == "cpu" else 0),
            dtype=settings.dtype,
            overlap=settings.overlap,
            checkpoint_s=settings.checkpoint_s,
            credentials=credentials,
            policy=_policy_on(device, policy, settings.machines),
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        for device in devices
    )


def _prefix(settings: WorkerSettings, key_file: Path | None, environ: Mapping[str, str]) -> str:
    """The beginning of the names of these workers."""
    own = automatic(environ) if settings.name_prefix == AUTO else settings.name_prefix
    return (worker_prefix(read_peer_key(key_file, "worker").name) if key_file else "") + own


def _checked_depot(settings: WorkerSettings) -> str:
    """As `WorkerSettings.depot_url`, which a store of results needs. Raises `SettingsError`."""
    depot = settings.depot_url()
    if store_of(settings) is not None and not depot:
        raise SettingsError(
            f"results_store: {settings.results_store!r} needs depot, the URL of an edge that inputs come from and previews go to:"
            " http://127.0.0.1:8000 for one of this machine"
        )
    return depot


def _check_machines(settings: WorkerSettings, devices: tuple[Device, ...]) -> Path | None:
    """The file of the key that the machines of a group share; None: there is one machine. Raises `SettingsError`."""
    machines, endpoint = settings.machines, settings.rank_endpoint
    if machines == 1:
        if endpoint:
            raise SettingsError(
                f"rank_endpoint: {endpoint!r} is for a group over several machines; give their number with machines"
            )
        return None
    if not endpoint:
        raise SettingsError(
            f"rank_endpoint: a group over {machines} machines needs it: tcp://ADDRESS:PORT, an address of this machine by which the"
            " others reach it"
        )
    host_and_port("rank_endpoint", endpoint)
    if len(devices) != 1:
        raise SettingsError(
            f"gpus: {settings.gpus!r} makes {len(devices)} workers, and a group over {machines} machines is one: write all of its GPUs"
            " here, and their number behind a slash, as 0-7/8"
        )
    if (gpus := machines * len(devices[0].visible)) > MAX_GPUS:
        raise SettingsError(
            f"machines: {machines} machines of {len(devices[0].visible)} GPUs make a worker of {gpus}, at most {MAX_GPUS} are possible"
        )
    return peer_key_path(settings, "worker", "rank_endpoint", endpoint)


def _policy_on(device: Device, policy: AgentPolicy, machines: int) -> AgentPolicy:
    """The numbers as they are on this device."""
    least_s = _GROUP_CANCEL_S if machines * len(device.visible) > 1 else 0.0
    return replace(
        policy,
        # A CPU worker's second process would take memory from the model of the first.
        spare_engine=policy.spare_engine and device.kind == "cuda",
        cancel_grace_max_s=max(policy.cancel_grace_max_s, least_s),
    )


def ensure_temporary_directory(home: Path) -> None:
    """Give libraries a directory for temporary files below `home` where the system has none. Raises `SettingsError`."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        own = home / "tmp"
        try:
            own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"home: no directory for temporary files: {own}: {error.strerror}") from None
        os.environ["TMPDIR"] = tempfile.tempdir = str(own)

"""`zoetrope doctor`: whether this machine can run the service, and what to do where it cannot. Checks are pure; facts are read apart."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import typer
from msgspec import Struct
from rich.markup import escape

from zoetrope.cli.options import Json, KeyFile, Url, opened
from zoetrope.cli.terminal import megabytes, out, show_json
from zoetrope.client.errors import ServiceError, ZoetropeError
from zoetrope.client.results import Health

Level = Literal["ok", "warn", "fail"]

_PYTHON = (3, 11)
#: The service refuses new jobs near the end of the disk; below this a few videos bring it there.
_LEAST_DISK_MB = 2_000
#: Of the packages of the extra `serve`, those without which nothing starts, by module.
_SERVE = ("zmq", "starlette", "uvicorn", "honcho", "torch", "diffusers", "transformers", "av", "PIL")
#: A depot that is a directory.
_LOCAL = "local"
#: Of an edge where none is named.
_EDGE_PORT = 8000
#: Seconds for the object store to say whether it may be used.
_STORE_S = 30.0
#: Seconds for the depot to take a connection.
_CONNECT_S = 3.0
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Check(Struct, frozen=True):
    """A check's outcome: what was looked at, what was found, and what to do about it."""

    name: str
    level: Level
    found: str
    cure: str = ""


class Gpu(Struct, frozen=True):
    """A GPU as its driver names it; memory in MB."""

    name: str
    memory_mb: float


class Facts(Struct, frozen=True, kw_only=True):
    """Facts of this machine."""

    python: tuple[int, int, int]
    #: Modules of `serve` that are not installed.
    missing: tuple[str, ...] = ()
    #: torch's version and the CUDA (or ROCm) it was built for; "" where there is none.
    torch: str = ""
    torch_cuda: str = ""
    #: Whether the machine has an NVIDIA GPU, by its device files; its driver's version, "" without one.
    has_gpu: bool = False
    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    memory_mb: float = 0.0
    #: Why the configuration cannot be read; "" where it can.
    config_fault: str = ""
    #: Model -> MB of its weights; None: they are not here.
    models: Mapping[str, float | None] = {}
    home: str = ""
    #: Why the home cannot be written; "".
    home_fault: str = ""
    disk_free_mb: float = 0.0
    host: str = "0.0.0.0"
    port: int = 8000
    #: Who has the port: "free", "zoetrope", "other".
    port_holder: str = "free"
    health: Health | None = None
    #: The file of API keys; "" where none is set. Whether it is there.
    keys_file: str = ""
    keys_there: bool = False
    #: `content_credentials`, whether its package is installed, and a file of certificate or key that is not there.
    marking: str = "auto"
    can_mark: bool = True
    marking_gone: str = ""
    traces: bool = False
    can_trace: bool = True
    #: URL of the depot, `local`, or what else the setting says; "": this machine's disk. Why nobody answers there; "".
    depot: str = ""
    depot_fault: str = ""
    #: URL of the object store of results; "": there is none. Why it does not take them; "". Whether its setting is wrong.
    results_store: str = ""
    store_fault: str = ""
    store_is_wrong: bool = False
    #: Whether these keys may list what is there.
    store_lists: bool = True
    #: Seconds between checkpoints; where they lie, why they cannot be written there (""), their jobs and MB.
    checkpoint_s: float = 10.0
    checkpoints: str = ""
    checkpoints_fault: str = ""
    checkpointed: int = 0
    checkpoints_mb: float = 0.0


def check_python(facts: Facts) -> Check:
    """The interpreter."""
    text = ".".join(map(str, facts.python))
    if facts.python[:2] < _PYTHON:
        return Check("Python", "fail", text, "install Python 3.11 or newer: make PYTHON=/path/to/python3.12 run")
    return Check("Python", "ok", text)


def check_packages(facts: Facts) -> Check:
    """The packages of the extra `serve`."""
    if facts.missing:
        cure = "pip install 'zoetrope[serve]' (in a checkout: make setup); clients need none of them"
        return Check("packages", "fail", f"not installed: {', '.join(facts.missing)}", cure)
    return Check("packages", "ok", "all that the service needs")


def check_torch(facts: Facts) -> Check:
    """The build of torch, beside the GPUs."""
    if not facts.torch:
        return Check("torch", "fail", "not installed", "pip install 'zoetrope[serve]' (in a checkout: make setup)")
    built = f"{facts.torch}, built for {facts.torch_cuda}" if facts.torch_cuda else f"{facts.torch}, for the CPU alone"
    if facts.has_gpu and not facts.torch_cuda:
        version = facts.torch.partition("+")[0]
        return Check(
            "torch", "fail", built, f"this machine has a GPU: pip install torch=={version} from PyPI's CUDA build"
        )
    return Check("torch", "ok", built)


def check_gpus(facts: Facts) -> Check:
    """The driver and the GPUs that it shows."""
    if facts.gpus:
        names: dict[str, int] = {}
        for gpu in facts.gpus:
            text = f"{gpu.name}, {megabytes(gpu.memory_mb)}"
            names[text] = names.get(text, 0) + 1
        shown = "; ".join(f"{count} x {name}" for name, count in names.items())
        return Check("GPUs", "ok", f"{shown}; driver {facts.driver}")
    if facts.has_gpu:
        return Check("GPUs", "fail", "there is one, and its driver does not answer", "run nvidia-smi: it says why")
    return Check("GPUs", "warn", "none of NVIDIA's", "workers run on the CPU, which is enough for the demo model alone")


def check_models(facts: Facts) -> Check:
    """The configured models: whether they are here, and their weights beside the memory."""
    if facts.config_fault:
        return Check(
            "configuration", "fail", facts.config_fault, "mend zoetrope.toml; docs/configuration.md has an example"
        )
    if not facts.models:
        return Check("models", "ok", "the demo model, which comes along")
    gone = [name for name, size in facts.models.items() if size is None]
    if gone:
        cure = "zoetrope pull OWNER/NAME fetches one from the hub; a directory must hold a diffusers pipeline"
        return Check("models", "fail", f"not here: {', '.join(gone)}", cure)
    sizes = {name: size for name, size in facts.models.items() if size is not None}
    shown = ", ".join(f"{name} {megabytes(size)} of weights" for name, size in sizes.items())
    largest, room = max(sizes.values()), max((gpu.memory_mb for gpu in facts.gpus), default=0.0)
    if facts.memory_mb and largest > facts.memory_mb:
        cure = "use weights in fewer bits (docs/models.md: quantize, GGUF), or a machine with more memory"
        return Check("models", "fail", f"{shown}; this machine has {megabytes(facts.memory_mb)} of memory", cure)
    if room and largest > room:
        cure = "parts wait in the machine's memory (placement), which is slower; quantize in the model's table makes them smaller"
        return Check("models", "warn", f"{shown}; a GPU has {megabytes(room)}", cure)
    return Check("models", "ok", shown)


def check_disk(facts: Facts) -> Check:
    """Room on the disk of the home."""
    found = f"{megabytes(facts.disk_free_mb)} free below {facts.home}"
    if facts.disk_free_mb < _LEAST_DISK_MB:
        return Check(
            "disk", "fail", found, "make room, or set home to another disk; retention_s and disk_quota_mb keep less"
        )
    return Check("disk", "ok", found)


def check_home(facts: Facts) -> Check:
    """The home: journal, artefacts, uploads."""
    if facts.home_fault:
        return Check(
            "home",
            "fail",
            f"{facts.home}: {facts.home_fault}",
            "set ZOETROPE_HOME to a directory that you can write to",
        )
    return Check("home", "ok", facts.home)


def check_port(facts: Facts) -> Check:
    """The port: free, or this service's already."""
    if facts.port_holder == "other":
        cure = f"end what listens there (ss -ltnp 'sport = :{facts.port}' names it), or set another: PORT=9000"
        return Check("port", "fail", f"{facts.port} is taken by another program", cure)
    if facts.port_holder == "free":
        return Check("port", "ok", f"{facts.port} is free: no service runs here (zoetrope serve starts one)")
    if facts.health is not None and not facts.health.is_ready:
        reasons = "; ".join(facts.health.reasons) or "no reason is given"
        return Check(
            "service",
            "warn",
            f"runs on port {facts.port} and is not ready: {reasons}",
            "zoetrope workers shows the workers",
        )
    if facts.health is not None and facts.health.warnings:
        return Check("service", "warn", "; ".join(facts.health.warnings), "docs/operations.md")
    return Check("service", "ok", f"runs on port {facts.port} and is ready")


def check_keys(facts: Facts) -> Check:
    """Check who may use the port."""
    if facts.keys_file and not facts.keys_there:
        return Check(
            "keys", "fail", f"{facts.keys_file} is not there", "zoetrope keys add NAME makes a key and the file"
        )
    if facts.keys_file:
        return Check("keys", "ok", f"asked for, of {facts.keys_file}")
    if facts.host in ("127.0.0.1", "localhost", "::1"):
        return Check("keys", "ok", "none are asked for, and only this machine reaches the port")
    cure = "zoetrope keys add NAME, and set keys_file to its file; or ZOETROPE_HOST=127.0.0.1 for this machine alone"
    return Check("keys", "warn", "whoever reaches the port may use the service", cure)


def check_marking(facts: Facts) -> Check:
    """Content credentials, which mark results as generated."""
    extra = "pip install 'zoetrope[c2pa]'"
    if facts.marking == "off":
        return Check("marking", "ok", "results are not marked as generated: content_credentials is off")
    if not facts.can_mark:
        level: Level = "fail" if facts.marking == "on" else "warn"
        return Check("marking", level, "results are not marked as generated: c2pa-python is not installed", extra)
    if facts.marking_gone:
        return Check("marking", "fail", f"{facts.marking_gone} is not there", "docs/operations.md: signing_certificate")
    return Check("marking", "ok", "results are signed as generated (C2PA)")


def check_traces(facts: Facts) -> Check:
    """The export of traces."""
    if facts.traces and not facts.can_trace:
        return Check("traces", "fail", "OpenTelemetry's packages are not installed", "pip install 'zoetrope[otel]'")
    return Check("traces", "ok", "exported" if facts.traces else "not asked for")


def check_depot(facts: Facts) -> Check:
    """Check where workers get inputs from and put files."""
    if not facts.depot:
        return Check("depot", "ok", "this machine's disk")
    if facts.depot == _LOCAL:
        return Check("depot", "ok", f"{facts.home}/artefacts, which the edges must share")
    if not facts.depot.startswith(("http://", "https://")):
        cure = "depot, in [workers], is local or the URL of an edge: http://10.0.0.1:8000"
        return Check("depot", "fail", f"{facts.depot!r} is neither", cure)
    if facts.depot_fault:
        cure = "start the edge there, or mend its address: depot, in [workers]"
        return Check("depot", "fail", f"{facts.depot}: {facts.depot_fault}", cure)
    what = "the edge for inputs and previews" if facts.results_store else "the edge for inputs, previews and results"
    return Check("depot", "ok", f"{facts.depot} answers, {what}")


def check_results(facts: Facts) -> Check:
    """The object store of results."""
    store = facts.results_store
    if not store:
        return Check("results", "ok", "kept where the depot is; results_store names no object store")
    if facts.depot in ("", _LOCAL):
        cure = 'set depot in [workers] to the URL of an edge, which inputs come from: "http://127.0.0.1:8000"'
        return Check("results", "fail", f"{store}: results_store needs a depot, too", cure)
    if facts.store_fault and facts.store_is_wrong:
        cure = "mend results_store, or the keys, region and endpoint in the environment (AWS_…); docs/operations.md"
        return Check("results", "fail", facts.store_fault, cure)
    if facts.store_fault:
        cure = "see that it runs and this machine reaches it; results wait on the workers' disks until it answers"
        return Check("results", "fail", f"{store} does not answer: {facts.store_fault}", cure)
    if not facts.store_lists:
        cure = "give the keys of edges ListBucket and DeleteObject; those of workers need neither"
        return Check("results", "warn", f"{store} takes files, and these keys may not list them", cure)
    return Check("results", "ok", f"{store} answers and takes files")


def check_checkpoints(facts: Facts) -> Check:
    """Check where jobs leave what they go on from after their engine has died."""
    if facts.checkpoints_fault:
        cure = f"let the service's user write to {facts.checkpoints}; until then such jobs begin anew"
        return Check("checkpoints", "fail", facts.checkpoints_fault, cure)
    if not facts.checkpoint_s:
        return Check("checkpoints", "ok", "none are written but where a job is paused: checkpoint_s is 0")
    held = f", {megabytes(facts.checkpoints_mb)} of {facts.checkpointed} jobs there now" if facts.checkpointed else ""
    return Check("checkpoints", "ok", f"every {facts.checkpoint_s:g} s to {facts.checkpoints}{held}")


CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_python,
    check_packages,
    check_torch,
    check_gpus,
    check_models,
    check_disk,
    check_home,
    check_port,
    check_keys,
    check_marking,
    check_traces,
    check_depot,
    check_results,
    check_checkpoints,
)


# ---------------------------------------------------------------- facts


class ConfigFault(Exception):
    """The configuration cannot be read; one sentence."""


def read_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """zoetrope.toml, or the file that ZOETROPE_CONFIG names; empty where there is none. Raises `ConfigFault`."""
    path = Path(environ.get("ZOETROPE_CONFIG") or "zoetrope.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if environ.get("ZOETROPE_CONFIG"):
            raise ConfigFault(f"ZOETROPE_CONFIG: {path} is not there") from None
        return {}
    except (OSError, ValueError) as error:
        raise ConfigFault(f"{path}: {error}") from None


def configured(config: Mapping[str, Any], environ: Mapping[str, str], table: str, name: str, default: str) -> str:
    """A setting as a process of the service reads it: variable, its table, the file's head, default."""
    of_table = config.get(table)
    value = environ.get(f"ZOETROPE_{name.upper()}") or (of_table.get(name) if isinstance(of_table, dict) else None)
    return str(value or config.get(name) or default)


def weights_mb(source: str) -> float | None:
    """MB of the weights of a model's directory or file; None: it is not here. An id of the hub is looked for in its cache."""
    path = Path(source).expanduser()
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", source):
        hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
        path = hub / f"models--{source.partition('@')[0].replace('/', '--')}"
    if not path.exists():
        return None
    files = (
        [path]
        if path.is_file()
        else [one for one in path.rglob("*") if one.suffix in (".safetensors", ".gguf", ".bin")]
    )
    # The hub's cache links each file of a snapshot to one blob.
    return sum(size for _, size in {(one.resolve(), one.stat().st_size) for one in files}) / 1e6


def _models(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, float | None]:
    sources: dict[str, str] = {}
    tables = config.get("models", {})
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            sources[name] = str(table.get("path", ""))
    single = configured(config, environ, "workers", "model", "")
    if single and single not in sources:
        sources[single] = single
    return {name: weights_mb(source) for name, source in sources.items() if source not in ("", "demo", "fake")}


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise


def _torch() -> tuple[str, str]:
    """torch's version and what it was built for, without importing it."""
    try:
        version = importlib.metadata.version("torch")
        spec = importlib.util.find_spec("torch")
        text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    except (importlib.metadata.PackageNotFoundError, OSError):
        return "", ""
    for name in ("cuda", "hip"):
        found = re.search(rf"^{name}.*= '([^']+)'", text, re.MULTILINE)
        if found:
            return version, f"{name.upper()} {found[1]}"
    return version, ""


def _gpus() -> tuple[str, tuple[Gpu, ...]]:
    """The driver's version and its GPUs, by nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "", ()
    line = [command, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", ()
    found = [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if done.returncode == 0]
    rows = [row for row in found if len(row) == 3 and row[2].replace(".", "").isdecimal()]
    # nvidia-smi counts in MiB.
    gpus = tuple(Gpu(name, float(memory) * 1.048576) for _, name, memory in rows)
    return (rows[0][0] if rows else ""), gpus


def _home_fault(home: Path) -> str:
    near = next(one for one in (home, *home.absolute().parents) if one.exists())
    if not near.is_dir():
        return f"{near} is no directory"
    return "" if os.access(near, os.W_OK | os.X_OK) else f"{near} cannot be written to"


def _port_holder(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return "other"
    return "free"


def _is_there(*modules: str) -> bool:
    """Whether these can be imported; what they lie in need not be."""
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:
        return False


def _depot_fault(url: str) -> str:
    """Reason why there is no answer at a depot's address."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def _store_facts(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `Facts` that say whether the object store takes results, as a process of the service finds."""
    line = [sys.executable, "-m", "broker.depot"]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=_STORE_S, env={**os.environ, **environ}, check=False
        )
    except subprocess.TimeoutExpired:
        return {"store_fault": f"no answer within {_STORE_S:g} s"}
    if done.returncode in (0, 3):
        return {"store_lists": not done.returncode}
    words = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["it could not be asked"]
    return {"store_fault": words[-1], "store_is_wrong": done.returncode != 1}


def _depot(config: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The depot as a worker reads it: the setting, and over tcp without one the edge on the broker's machine."""
    depot = configured(config, environ, "workers", "depot", "")
    back = configured(config, environ, "workers", "back", "")
    if not depot and back.startswith("tcp://"):
        return f"http://{back.removeprefix('tcp://').rpartition(':')[0]}:{_EDGE_PORT}"
    return "" if depot == _LOCAL and not back.startswith("tcp://") else depot.rstrip("/")


def _checkpoints(directory: Path) -> tuple[str, int, float]:
    """(why nothing can be written there, jobs with checkpoints, their MB)."""
    try:
        jobs = [one for one in directory.iterdir() if one.is_dir()]
        size = sum(file.stat().st_size for job in jobs for file in job.rglob("*") if file.is_file())
    except FileNotFoundError:
        return _home_fault(directory), 0, 0.0
    except OSError as error:
        return f"{directory}: {error.strerror}", 0, 0.0
    return _home_fault(directory), len(jobs), size / 1e6


def _file_facts(config: Mapping[str, Any], environ: Mapping[str, str], home: Path) -> dict[str, Any]:
    """The fields of `Facts` about depot, object store and checkpoints."""
    depot, store = _depot(config, environ), configured(config, environ, "workers", "results_store", "")
    checkpoints = home / "artefacts" / ".checkpoints"
    fault, checkpointed, checkpoints_mb = _checkpoints(checkpoints)
    return {
        "depot": depot,
        "depot_fault": _depot_fault(depot) if depot.startswith("http") else "",
        "results_store": store,
        **(_store_facts(environ) if store else {}),
        "checkpoint_s": _number(configured(config, environ, "workers", "checkpoint_s", "10"), 10.0),
        "checkpoints": str(checkpoints),
        # What the home's own line says is not said twice.
        "checkpoints_fault": "" if _home_fault(home) else fault,
        "checkpointed": checkpointed,
        "checkpoints_mb": checkpoints_mb,
    }


def read_facts(environ: Mapping[str, str], url: str | None, key_file: Path | None) -> Facts:
    """Read the facts of this machine. Asks the service on its port, and no other."""
    fault, config = "", {}
    try:
        config = read_config(environ)
    except ConfigFault as error:
        fault = str(error)
    home = Path(configured(config, environ, "broker", "home", "./.zoetrope"))
    near = next(one for one in (home, *home.absolute().parents) if one.exists())
    host = configured(config, environ, "edge", "host", "0.0.0.0")
    text = configured(config, environ, "edge", "port", "8000")
    port = int(text) if text.isdecimal() and 0 < int(text) < 65_536 else 8000
    holder, health = _port_holder(host, port), None
    if holder == "other":
        try:
            with opened(url or f"http://127.0.0.1:{port}", key_file) as client:
                health, holder = client.health(), "zoetrope"
        except ServiceError as error:
            # A key is asked for: that is one.
            holder = "zoetrope" if error.status == 401 else "other"
        except ZoetropeError:
            pass
    torch, torch_cuda = _torch()
    driver, gpus = _gpus()
    keys_file = configured(config, environ, "edge", "keys_file", "")
    signing = [configured(config, environ, "edge", name, "") for name in ("signing_certificate", "signing_key")]
    return Facts(
        python=sys.version_info[:3],
        missing=tuple(name for name in _SERVE if importlib.util.find_spec(name) is None),
        torch=torch,
        torch_cuda=torch_cuda,
        has_gpu=bool(gpus) or Path("/dev/nvidia0").exists(),
        driver=driver,
        gpus=gpus,
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6,
        config_fault=fault,
        models=_models(config, environ),
        home=str(home),
        home_fault=_home_fault(home),
        disk_free_mb=shutil.disk_usage(near).free / 1e6,
        host=host,
        port=port,
        port_holder=holder,
        health=health,
        keys_file=keys_file,
        keys_there=bool(keys_file) and Path(keys_file).is_file(),
        marking=configured(config, environ, "edge", "content_credentials", "auto"),
        can_mark=_is_there("c2pa"),
        marking_gone=next((name for name in signing if name and not Path(name).is_file()), ""),
        traces=configured(config, environ, "edge", "traces", "").lower() in ("true", "1", "yes", "on"),
        can_trace=_is_there("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
        **_file_facts(config, environ, home),
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    strict: Annotated[bool, typer.Option(help="Warnings count as failures.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check whether this machine can run the service: a line a check, with what to do where it fails."""
    facts = read_facts(os.environ, url, key_file)
    checks = [check(facts) for check in CHECKS]
    if as_json:
        show_json(checks)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            colour = _COLOURS[check.level]
            cure = f"\n      {'':<{width}} -> {check.cure}" if check.cure else ""
            out().print(
                f"[{colour}]{check.level:<4}[/{colour}]  {check.name:<{width}} {escape(check.found)}{escape(cure)}"
            )
    bad = ("fail", "warn") if strict else ("fail",)
    if any(check.level in bad for check in checks):
        raise typer.Exit(1)

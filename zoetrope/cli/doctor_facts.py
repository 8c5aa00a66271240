"""Facts of this machine that `zoetrope doctor` checks: versions, GPUs, disk, ports, settings, servers."""

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from zoetrope.cli.options import opened
from zoetrope.client.errors import ServiceError, ZoetropeError
from zoetrope.client.requests import DEFAULT_PORT
from zoetrope.client.results import Health

#: Packages of the extra `serve` without which nothing starts, by module.
_SERVE = ("zmq", "starlette", "uvicorn", "honcho", "torch", "diffusers", "transformers", "av", "PIL")
#: A depot that is a directory.
LOCAL = "local"
#: Seconds for the check of the object store.
_STORE_S = 30.0
#: Seconds for the depot to take a connection.
_CONNECT_S = 3.0


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
    #: State of the port: "free", "zoetrope", "other".
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
    #: URL of the depot, `local`, or the setting's other value; "": this machine's disk. Why there is no answer; "".
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
    """Whether these modules can be imported; their packages need not be there."""
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
    """The fields of `Facts` about the object store of results, checked in a process of the service."""
    line = [sys.executable, "-m", "broker.depot"]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=_STORE_S, env={**os.environ, **environ}, check=False
        )
    except subprocess.TimeoutExpired:
        return {"store_fault": f"no answer within {_STORE_S:g} s"}
    if done.returncode in (0, 3):
        return {"store_lists": not done.returncode}
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["it could not be asked"]
    return {"store_fault": lines[-1], "store_is_wrong": done.returncode != 1}


def _depot(config: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The depot as a worker reads it: the setting, and over tcp without one the edge on the broker's machine."""
    depot = configured(config, environ, "workers", "depot", "")
    back = configured(config, environ, "workers", "back", "")
    if not depot and back.startswith("tcp://"):
        return f"http://{back.removeprefix('tcp://').rpartition(':')[0]}:{DEFAULT_PORT}"
    return "" if depot == LOCAL and not back.startswith("tcp://") else depot.rstrip("/")


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
        # The home's own line reports this already.
        "checkpoints_fault": "" if _home_fault(home) else fault,
        "checkpointed": checkpointed,
        "checkpoints_mb": checkpoints_mb,
    }


def read_facts(environ: Mapping[str, str], url: str | None, key_file: Path | None) -> Facts:
    """Read the facts of this machine. Queries the service on its port, the depot, and the object store of results."""
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
            # A key is required: a service answers there.
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

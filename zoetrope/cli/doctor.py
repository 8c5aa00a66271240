"""`zoetrope doctor`: whether this machine can run the service, and what to do where it cannot. The facts are read in `doctor_facts`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Literal

import typer
from msgspec import Struct
from rich.markup import escape

from zoetrope.cli.doctor_facts import LOCAL, Facts, read_facts
from zoetrope.cli.options import Json, KeyFile, Url
from zoetrope.cli.terminal import megabytes, out, show_json

Level = Literal["ok", "warn", "fail"]

_PYTHON = (3, 11)
#: The service refuses new jobs near the end of the disk; below this a few videos bring it there.
_LEAST_DISK_MB = 2_000
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Check(Struct, frozen=True):
    """Outcome of a check: its subject, what was found, and what to do about it."""

    name: str
    level: Level
    found: str
    cure: str = ""


def check_python(facts: Facts) -> Check:
    """Check the version of the interpreter."""
    text = ".".join(map(str, facts.python))
    if facts.python[:2] < _PYTHON:
        return Check("Python", "fail", text, "install Python 3.11 or newer: make PYTHON=/path/to/python3.12 run")
    return Check("Python", "ok", text)


def check_packages(facts: Facts) -> Check:
    """Check the packages of the extra `serve`."""
    if facts.missing:
        cure = "pip install 'zoetrope[serve]' (in a checkout: make setup); clients need none of them"
        return Check("packages", "fail", f"not installed: {', '.join(facts.missing)}", cure)
    return Check("packages", "ok", "all that the service needs")


def check_torch(facts: Facts) -> Check:
    """Check the build of torch against the GPUs."""
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
    """Check the driver and the GPUs that it shows."""
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
    """Check whether the configured models are here, and their weights against the memory."""
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
    """Check the room on the disk of the home."""
    found = f"{megabytes(facts.disk_free_mb)} free below {facts.home}"
    if facts.disk_free_mb < _LEAST_DISK_MB:
        return Check(
            "disk", "fail", found, "make room, or set home to another disk; retention_s and disk_quota_mb keep less"
        )
    return Check("disk", "ok", found)


def check_home(facts: Facts) -> Check:
    """Check the home: journal, artefacts, uploads."""
    if facts.home_fault:
        return Check(
            "home",
            "fail",
            f"{facts.home}: {facts.home_fault}",
            "set ZOETROPE_HOME to a directory that you can write to",
        )
    return Check("home", "ok", facts.home)


def check_port(facts: Facts) -> Check:
    """Check whether the port is free, or this service's already."""
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
    """Check the access to the port."""
    if facts.keys_file and not facts.keys_there:
        return Check(
            "keys", "fail", f"{facts.keys_file} is not there", "zoetrope keys add NAME makes a key and the file"
        )
    if facts.keys_file:
        return Check("keys", "ok", f"asked for, of {facts.keys_file}")
    if facts.host in ("127.0.0.1", "localhost", "::1"):
        return Check("keys", "ok", "none are asked for, and only this machine reaches the port")
    cure = "zoetrope keys add NAME, and set keys_file to its file; or ZOETROPE_HOST=127.0.0.1 for this machine alone"
    return Check("keys", "warn", "any machine that reaches the port may use the service", cure)


def check_marking(facts: Facts) -> Check:
    """Check content credentials, which mark results as generated."""
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
    """Check the export of traces."""
    if facts.traces and not facts.can_trace:
        return Check("traces", "fail", "OpenTelemetry's packages are not installed", "pip install 'zoetrope[otel]'")
    return Check("traces", "ok", "exported" if facts.traces else "not asked for")


def check_depot(facts: Facts) -> Check:
    """Check the depot, from which workers get inputs and into which they put files."""
    if not facts.depot:
        return Check("depot", "ok", "this machine's disk")
    if facts.depot == LOCAL:
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
    """Check the object store of results."""
    store = facts.results_store
    if not store:
        return Check("results", "ok", "kept where the depot is; results_store names no object store")
    if facts.depot in ("", LOCAL):
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
    """Check the directory of checkpoints, from which jobs go on after their engine has died."""
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

"""Commands about the pool: workers, drain, undrain, models, usage."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from zoetrope.cli.options import Json, KeyFile, Url, opened
from zoetrope.cli.terminal import err, megabytes, out, quiet_interrupt, show_json, show_json_line, show_table, span
from zoetrope.client.client import Client
from zoetrope.client.results import Model, Worker

#: Seconds between two polls of a worker that is to leave.
_LOOK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (workers, drain, undrain, models, usage):
        app.command(command.__name__)(command)


def workers(url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the workers, and the queue in numbers."""
    with opened(url, key_file) as client:
        body = client.request("GET", "/v1/workers")
        found, queue = client.workers(), client.queue()
    if as_json:
        show_json(body)
        return
    rows = [
        (
            worker.name,
            _state(worker),
            _device(worker),
            worker.model or "",
            _holds(worker),
            _memory(worker),
            _counts(worker),
        )
        for worker in found
    ]
    show_table(("WORKER", "STATE", "DEVICE", "MODEL", "JOB", "MEMORY", "DONE"), rows, "no worker has registered")
    waiting = sum(queue.counts.get(state, 0) for state in ("queued", "delayed"))
    err().print(f"{waiting} jobs wait, {span(queue.backlog_s)} of work; a new one waits about {span(queue.wait_s)}")


def _state(worker: Worker) -> str:
    """Its state; of one that is starting, with an engine process, what that does."""
    now = worker.loading
    if now is None or not now.phase or worker.state != "starting":
        return worker.state
    text = {"load": "loading", "warm_up": "warming up"}.get(now.phase, now.phase)
    return f"{text} {now.step}/{now.total}" if now.total else text


def _device(worker: Worker) -> str:
    return f"{worker.gpus} x {worker.device}" if worker.gpus > 1 else worker.device


def _holds(worker: Worker) -> str:
    return ", ".join(f"{job.id} {job.phase or ''} {job.step}/{job.total}" for job in worker.jobs)


def _memory(worker: Worker) -> str:
    if not worker.memory_total_mb:
        return megabytes(worker.memory_used_mb) if worker.memory_used_mb else ""
    return f"{megabytes(worker.memory_used_mb)} of {megabytes(worker.memory_total_mb)}"


def _counts(worker: Worker) -> str:
    failed = f", {worker.failed} failed" if worker.failed else ""
    loading = worker.loading.error if worker.loading is not None else None
    return f"{worker.succeeded}{failed}" + "".join(
        f"; {text}" for text in (worker.fault, loading, _depot(worker)) if text
    )


def _depot(worker: Worker) -> str:
    """Results that wait for the depot, where a try failed or they keep the worker from its work; else ""."""
    now = worker.depot
    if now is None or not (now.fault or now.full):
        return ""
    what = f"{now.results} results wait for the depot" if now.results else "inputs have not come from the depot"
    return what + (", so it takes no job" if now.full else "") + (f": {now.fault}" if now.fault else "")


def drain(
    name: Annotated[str, typer.Argument(metavar="WORKER", help="The worker's name, as gpu-0.")],
    wait: Annotated[bool, typer.Option(help="Wait until it has left.")] = True,
    hand_back: Annotated[
        bool, typer.Option("--hand-back", help="Do not finish jobs of models that resume: they go on elsewhere.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Let a worker finish what it holds and leave. Ctrl-C ends the waiting; the worker leaves all the same."""
    with quiet_interrupt(), opened(url, key_file) as client:
        worker: Worker | None = client.drain(name, hand_back=hand_back)
        printed = ""
        while worker is not None:
            text = f"{name} takes no more jobs; it holds {_holds(worker) or 'none'}"
            if as_json:
                show_json_line(worker.raw)
            elif text != printed:
                out().print(text, markup=False)
            printed = text
            if not wait:
                return
            time.sleep(_LOOK_S)
            worker = _find(client, name)
        if not as_json:
            out().print(f"{name} has left", markup=False)


def undrain(
    name: Annotated[str, typer.Argument(metavar="WORKER", help="The worker's name, as gpu-0.")],
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Give a worker that drains, and has not left, work again."""
    with opened(url, key_file) as client:
        worker = client.undrain(name)
    if as_json:
        show_json(worker.raw)
    else:
        out().print(f"{name} goes back to work; it holds {_holds(worker) or 'none'}", markup=False)


def _find(client: Client, name: str) -> Worker | None:
    """The worker, while it is there to be waited for."""
    return next((one for one in client.workers() if one.name == name and one.state != "lost"), None)


def models(url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the models, what each makes, takes and starts from."""
    with opened(url, key_file) as client:
        found = client.models()
    if as_json:
        show_json([model.raw for model in found])
        return
    rows = [
        (one.id, ", ".join(one.outputs or [one.output]), _takes(one), _usual(one), str(one.workers)) for one in found
    ]
    show_table(("MODEL", "MAKES", "FROM", "USUALLY", "WORKERS"), rows, "no model: no worker has registered")


def _takes(model: Model) -> str:
    needs = (["image"] if model.needs_image else []) + model.needs_inputs
    may = (["image"] if model.takes_image and not model.needs_image else []) + [
        one for one in model.takes_inputs if one not in model.needs_inputs
    ]
    return ", ".join(["text", *needs, *(f"{one}?" for one in may)])


def _usual(model: Model) -> str:
    usual = model.defaults
    size = f"{usual.get('width', '?')}x{usual.get('height', '?')}"
    clip = f", {usual['num_frames']} frames" if model.output == "video" and usual.get("num_frames") else ""
    return f"{size}{clip}, {usual.get('num_inference_steps', '?')} steps"


def usage(
    first_day: Annotated[str | None, typer.Option("--from", help="The first day, as 2026-11-01 (UTC).")] = None,
    last_day: Annotated[
        str | None, typer.Option("--to", help="The last day [default: today].", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(help="day, tenant, key, model, or several with commas.")] = "day",
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Sum up the usage of the pool: jobs, seconds on GPUs, bytes; of the last 30 days by default."""
    with opened(url, key_file) as client:
        found = client.usage(first_day, last_day, by=by)
    if as_json:
        show_json(found.raw)
        return
    groups = [name for name in ("day", "tenant", "key", "model") if name in by.replace(" ", "").split(",")]
    rows = [
        (
            *(getattr(row, name) or "none" for name in groups),
            str(row.succeeded),
            str(row.failed),
            str(row.cancelled),
            span(row.gpu_s),
            span(row.lost_gpu_s),
            megabytes(row.bytes / 1e6),
        )
        for row in found.data
    ]
    columns = (*map(str.upper, groups), "SUCCEEDED", "FAILED", "CANCELLED", "GPU TIME", "LOST", "RESULTS")
    show_table(columns, rows, f"nothing was used from {found.first_day} to {found.last_day}")
    if found.has_more:
        err().print("there is more: ask for fewer days, or by less")

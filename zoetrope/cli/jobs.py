"""Commands about jobs and their files: ps, show, logs, cancel, pause, resume, commit, download, rm, verify."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoetrope.cli.generate import progress_text
from zoetrope.cli.options import JobId, Json, KeyFile, Url, opened
from zoetrope.cli.terminal import (
    ago,
    clock,
    day_and_time,
    err,
    looking,
    megabytes,
    out,
    quiet_interrupt,
    shortened,
    show_json,
    show_json_line,
    show_pairs,
    show_table,
    span,
)
from zoetrope.client.results import ACTIVE_STATES, Job, Outcome

_NONE_LIVE = "no jobs wait or run; --all shows finished ones"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ps, show, logs, cancel, pause, resume, commit, download, rm, verify):
        app.command(command.__name__)(command)


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Finished jobs, too.")] = False,
    state: Annotated[str | None, typer.Option(help="Of these states, with commas between them.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model.")] = None,
    worker: Annotated[str | None, typer.Option(help="Of this worker.")] = None,
    prompt: Annotated[str | None, typer.Option(help="With this text in their prompt.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, the newest.")] = 20,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """List the jobs that wait or run; with --all the finished ones, too."""
    states = state or (None if everything else ",".join(ACTIVE_STATES))
    found: list[Job] = []
    searched_to = 0.0
    with opened(url, key_file) as client, looking() as update:

        def on_search(at: float) -> None:
            nonlocal searched_to
            searched_to = at
            update(f"searched back to {day_and_time(at)}; Ctrl-C shows what was found")

        try:
            for job in client.jobs(
                state=states, model=model, worker=worker, prompt=prompt, limit=limit, on_search=on_search
            ):
                found.append(job)
        except KeyboardInterrupt:
            interrupted = True
        else:
            interrupted = False
    _show_jobs(found, as_json=as_json, empty="no jobs" if everything or state else _NONE_LIVE)
    if interrupted:
        if searched_to:
            err().print(f"searched back to {day_and_time(searched_to)}, no further")
        raise typer.Exit(130)


def _show_jobs(found: list[Job], *, as_json: bool, empty: str) -> None:
    if as_json:
        show_json([job.raw for job in found])
        return
    rows = [
        (job.id, progress_text(job), job.model, job.worker or "", ago(job.submitted_at), shortened(_prompt(job)))
        for job in found
    ]
    columns = ("JOB", "STATE", "MODEL", "WORKER", "SUBMITTED", "PROMPT")
    show_table(columns, rows, empty)


def _prompt(job: Job) -> str:
    return str((job.spec or {}).get("prompt", ""))


def show(job_id: JobId, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show a job: what it draws, where it is, its files."""
    with opened(url, key_file) as client:
        job = client.job(job_id)
    if as_json:
        show_json(job.raw)
        return
    spec = job.spec or {}
    stages = ", ".join(f"{name} {span(seconds)}" for name, seconds in job.timings.get("stages", {}).items())
    show_pairs(
        {
            "job": job.id,
            "state": progress_text(job),
            "error": f"{job.error.code}: {job.error.message}" if job.error else "",
            "model": job.model,
            "prompt": _prompt(job),
            "size": f"{spec.get('width')}x{spec.get('height')}, {spec.get('num_frames')} frames at {spec.get('fps')}/s",
            "steps": str(spec.get("num_inference_steps", "")),
            "seed": str(spec.get("seed", "")),
            "worker": job.worker or "",
            "preview": job.preview or "",
            "kept": f"{job.kept} steps in a checkpoint" if job.kept else "",
            "attempts": str(job.attempts),
            "submitted": ago(job.submitted_at),
            "waited": span(job.timings.get("queued_s")),
            "ran": span(job.timings.get("run_s")) + (f" ({stages})" if stages else ""),
            "used": ", ".join(f"{name} {words}" for name, words in job.used.items()),
            "save_to": job.save_error or "",
            **{f"warning {number}": text for number, text in enumerate(job.warnings, start=1)},
            **{f"file {file.name}": f"{megabytes(file.size / 1e6)}, sha256 {file.sha256}" for file in job.artefacts},
        }
    )


def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens until the job is over.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show a job's history; -f follows the job to its end. Ctrl-C ends the command, not the job."""
    with quiet_interrupt(), opened(url, key_file) as client:
        job = client.job(job_id)
        for move in job.history:
            _show_move(move, as_json=as_json)
        if not follow:
            return
        printed = ""
        for event in client.events(job_id):
            now = progress_text(event.job)
            if as_json:
                show_json_line(event.job.raw)
            elif now != printed:
                left = f", {span(event.job.eta_s)} left" if event.job.eta_s else ""
                out().print(f"{now}{left}", markup=False)
            printed = now
            job = event.job
    # A job that failed is shown; that is no failure of the showing.


def _show_move(move: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json_line(move)
        return
    where = f" on {move['worker']}" if move.get("worker") else ""
    attempt = f", attempt {move['attempt']}" if move.get("attempt") else ""
    note = f": {move['note']}" if move.get("note") else ""
    out().print(f"{clock(move['at'])} {move['to']} ({move['cause']}{attempt}){where}{note}", markup=False)


JobIds = Annotated[list[str], typer.Argument(metavar="JOB…", help="Ids of jobs.")]

#: Action -> what became of it -> a sentence.
_OUTCOMES = {
    "cancel": {
        "cancelled": "cancelled {}",
        "requested": "cancelled {}: its worker is being stopped",
        "already_final": "{} was over already",
    },
    "pause": {"done": "paused {}", "requested": "pausing {}: its worker hands it back after its next step"},
    "resume": {"done": "{} goes on", "requested": "{} goes on"},
    "commit": {"done": "{} is drawn to its end", "requested": "{} is drawn to its end"},
}


def cancel(job_ids: JobIds, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Cancel jobs."""
    _control("cancel", job_ids, url, key_file, as_json=as_json)


def pause(job_ids: JobIds, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Let jobs wait, and keep what is drawn of them."""
    _control("pause", job_ids, url, key_file, as_json=as_json)


def resume(job_ids: JobIds, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Let paused jobs go on from where they were."""
    _control("resume", job_ids, url, key_file, as_json=as_json)


def commit(job_ids: JobIds, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Let drafts be drawn to their end."""
    _control("commit", job_ids, url, key_file, as_json=as_json)


def _control(
    action: Literal["cancel", "pause", "resume", "commit"],
    job_ids: list[str],
    url: str | None,
    key_file: Path | None,
    *,
    as_json: bool,
) -> None:
    with opened(url, key_file) as client:
        for job_id in job_ids:
            done: Outcome = getattr(client, action)(job_id)
            if as_json:
                show_json_line(done.raw)
            else:
                message = _OUTCOMES[action].get(done.outcome, "{}: " + done.outcome)
                out().print(message.format(done.id), markup=False)


def download(
    job_id: JobId,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="A file, or a directory.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="One file of several.")] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Fetch the files of a finished job; goes on where it broke off, and checks the digest."""
    with opened(url, key_file) as client:
        job = client.job(job_id)
        names: list[str | None] = [name] if name or not job.artefacts else [file.name for file in job.artefacts]
        got = []
        for number, one in zip(itertools.count(1), names, strict=False):
            place = to or Path()
            if number > 1 and not place.is_dir():
                place = place.with_stem(f"{place.stem}-{number}")
            got.append(client.download(job, place, name=one))
    if as_json:
        show_json(got)
        return
    for file in got:
        out().print(file.path, markup=False)


def rm(
    job_ids: JobIds,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Delete jobs, record and files; one that is not over is cancelled first."""
    with opened(url, key_file) as client:
        for job_id in job_ids:
            client.delete(job_id)
            out().print(f"deleted {job_id}", markup=False)


#: State of content credentials -> what it means.
_STATES = {
    "valid": "as it was signed, by a signer whom the service trusts",
    "untrusted": "as it was signed, by a signer whom the service does not know",
    "invalid": "changed since it was signed, or its credentials do not hold",
}


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="PNG, JPEG, WebP or MP4.", exists=True, dir_okay=False)
    ],
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check the content credentials (C2PA) of files; exit code 1 when those of one do not hold."""
    with opened(url, key_file) as client:
        found = [(file, client.credentials(file)) for file in files]
    for file, credentials in found:
        if as_json:
            show_json_line({"file": str(file), **credentials.raw})
            continue
        meaning = _STATES.get(credentials.state, "")
        show_pairs(
            {
                "file": str(file),
                "state": f"{credentials.state}: {meaning}" if meaning else credentials.state,
                "failures": ", ".join(credentials.failures),
                "made by": "a model" if credentials.generated else "not declared as made by a model",
                "signer": ", ".join(filter(None, (credentials.signer, credentials.issuer))),
                "program": credentials.generator or "",
                "unsigned": f"sha256 {credentials.unsigned_sha256}" if credentials.unsigned_sha256 else "",
                "prompt": str((credentials.recipe or {}).get("request", {}).get("prompt", "")),
            }
        )
    if any(credentials.state == "invalid" for _, credentials in found):
        raise typer.Exit(1)

"""`zoetrope generate`: from a prompt to a file, with a bar on the way; Ctrl-C cancels the job."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from zoetrope.cli.options import Json, KeyFile, Url, opened
from zoetrope.cli.terminal import err, show_json, show_pairs, span
from zoetrope.cli.terminal import out as stdout
from zoetrope.client.client import Client
from zoetrope.client.errors import NotFound, WaitTimeout, ZoetropeError
from zoetrope.client.results import Estimate, Job

_LOOKS_REMOTE = ("http://", "https://", "data:", "file-")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate")(generate)


# The command's options; each field of a request that has none is there by --set.
Prompt = Annotated[str, typer.Argument(help="What to draw.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Where to put the file [default: the job's id].", show_default=False),
]
ModelName = Annotated[str | None, typer.Option("--model", help="A name of `zoetrope models`.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")]
Seconds = Annotated[float | None, typer.Option("--seconds", help="Length of the clip.")]
Frames = Annotated[int | None, typer.Option("--frames", help="Frames of the clip, instead of --seconds.")]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames per second.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Strength of the prompt's guidance.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same result.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What not to draw.")]
Preset = Annotated[str | None, typer.Option("--preset", help="A preset of the model.")]
Count = Annotated[int | None, typer.Option("--count", "-n", help="How many to make.")]
Lora = Annotated[list[str] | None, typer.Option("--lora", help="NAME or NAME:SCALE; may be given several times.")]
Image = Annotated[str | None, typer.Option("--image", help="First frame or source image: a file, URL or file id.")]
LastImage = Annotated[str | None, typer.Option("--last-image", help="Last frame.")]
References = Annotated[list[str] | None, typer.Option("--reference", help="Further images to draw from.")]
Video = Annotated[str | None, typer.Option("--video", help="A clip to draw over.")]
Priority = Annotated[int | None, typer.Option("--priority", help="0 to 9; 9 first.")]
Within = Annotated[
    float | None,
    typer.Option("--within", help="Have it promised within so many seconds, or refused with the least that can be."),
]
EstimateOnly = Annotated[bool, typer.Option("--estimate", help="Say when it would be done, and submit nothing.")]
Like = Annotated[
    Path | None,
    typer.Option("--like", help="A file of an earlier job: draw it again, with what else is given changed."),
]
Draft = Annotated[
    int | None,
    typer.Option("--draft", help="Draw so many steps, and wait with a preview until `zoetrope commit` or `cancel`."),
]
Previews = Annotated[int | None, typer.Option("--previews", help="Pictures to show while it is drawn, 0 to 8.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of POST /v1/jobs as NAME=VALUE, extra.NAME=VALUE too."),
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait at most; the job goes on.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Submit, write the job's id, and do not wait.")]


def generate(
    prompt: Prompt = "",
    out: Out = None,
    model: ModelName = None,
    size: Size = None,
    seconds: Seconds = None,
    frames: Frames = None,
    fps: Fps = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    negative: Negative = None,
    preset: Preset = None,
    count: Count = None,
    lora: Lora = None,
    image: Image = None,
    last_image: LastImage = None,
    reference: References = None,
    video: Video = None,
    priority: Priority = None,
    draft: Draft = None,
    previews: Previews = None,
    within: Within = None,
    estimate: EstimateOnly = False,
    like: Like = None,
    setting: Settings = None,
    timeout: Timeout = None,
    detach: Detach = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Draw a video or an image and fetch it; Ctrl-C cancels the job."""
    fields: dict[str, Any] = {
        "model": model,
        "size": size,
        "seconds": seconds,
        "num_frames": frames,
        "fps": fps,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "negative_prompt": negative,
        "preset": preset,
        "num_outputs": count,
        "priority": priority,
        "draft_steps": draft,
        "previews": previews,
        "ready_within_s": within,
        "loras": [read_lora(text) for text in lora] if lora else None,
        "image": read_input("--image", image),
        "last_image": read_input("--last-image", last_image),
        "reference_images": [read_input("--reference", one) for one in reference] if reference else None,
        "video": read_input("--video", video),
    }
    for text in setting or ():
        read_setting(text, fields)
    with opened(url, key_file) as client:
        _carry_out(client, Generation(prompt, fields, out, timeout, estimate, detach, as_json), like)


class Generation(NamedTuple):
    """Arguments of the command: the request, and what to do with its result."""

    prompt: str
    fields: dict[str, Any]
    out: Path | None
    timeout: float | None
    estimate: bool
    detach: bool
    as_json: bool


def _carry_out(client: Client, generation: Generation, like: Path | None) -> None:
    """Submit, wait, fetch, and write where the files are. Raises `ZoetropeError`."""
    # A service that does not answer is reported before files are uploaded.
    client.health()
    if like is not None:
        generation = _like(client, like, generation)
    elif not generation.prompt and not generation.estimate:
        raise ZoetropeError("PROMPT is missing: say what to draw, or name a file to draw again with --like")
    if generation.estimate:
        _show_estimate(client.estimate(**generation.fields), as_json=generation.as_json)
        return
    if generation.detach:
        job = client.submit(generation.prompt, **generation.fields)
        if generation.as_json:
            show_json(job.raw)
        else:
            stdout().print(job.id, markup=False)
        return
    job = _drawn(client, generation)
    if is_draft(job):
        _show_draft(client, job, as_json=generation.as_json)
        return
    files = _fetch(client, job, generation.out)
    if generation.as_json:
        show_json({**job.raw, "files": [str(file) for file in files]})
        return
    for file in files:
        stdout().print(str(file), markup=False)


def _show_estimate(found: Estimate, *, as_json: bool) -> None:
    if as_json:
        show_json(found.raw)
        return
    known = found.ready_within_s is not None
    could = (
        f"within {span(found.ready_within_s)}, with a confidence of {found.ready_confidence:g}"
        if known
        else found.unknown
    )
    show_pairs(
        {
            "model": found.model,
            "before it": f"{_counted(found.position, 'job')}, {_counted(found.workers, 'worker')}",
            "takes": span(found.takes_s),
            "starts": f"{span(max(0.0, found.starts_at - time.time()))} from now" if found.starts_at else "",
            "done": f"{span(max(0.0, found.done_at - time.time()))} from now" if found.done_at else "",
            "promise": could or "",
        }
    )


def _show_draft(client: Client, job: Job, *, as_json: bool) -> None:
    if as_json:
        show_json(job.raw)
        return
    stdout().print(job.id, markup=False)
    preview = f"; {client.url}{job.preview} shows it" if job.preview else ""
    err().print(f"the draft waits{preview}: `zoetrope commit {job.id}` draws it to its end", markup=False)


def read_lora(text: str) -> dict[str, Any]:
    """A LoRA of NAME or NAME:SCALE. Raises `ZoetropeError`."""
    name, colon, scale = text.rpartition(":")
    if not colon:
        return {"name": text}
    try:
        return {"name": name, "scale": float(scale)}
    except ValueError:
        raise ZoetropeError(f"--lora: {text!r} must be NAME or NAME:SCALE, with a number as scale") from None


def read_input(option: str, text: str | None) -> Path | str | None:
    """A file of this machine, to be uploaded; or a URL or id, which the service reads. Raises `ZoetropeError`."""
    if text is None or text.startswith(_LOOKS_REMOTE):
        return text
    path = Path(text).expanduser()
    if not path.is_file():
        raise ZoetropeError(f"{option}: {text!r} is no file here, and neither a URL nor the id of an uploaded file")
    return path


def read_setting(text: str, fields: dict[str, Any]) -> None:
    """Put NAME=VALUE into the fields: numbers, true, false, lists and objects as JSON, all else as text. Raises `ZoetropeError`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ZoetropeError(f"--set: {text!r} must be NAME=VALUE")
    try:
        read: Any = msgspec.json.decode(value)
    except msgspec.DecodeError:
        read = value
    outer, dot, inner = name.partition(".")
    place = fields.setdefault(outer, {}) if dot else fields
    if not isinstance(place, dict):
        raise ZoetropeError(f"--set: {name!r} names a member of {outer}, which is no object")
    key = inner if dot else name
    if place.get(key) is not None:
        raise ZoetropeError(f"--set: {name!r} is given twice, here or by an option of its own")
    place[key] = read


def _like(client: Client, like: Path, generation: Generation) -> Generation:
    """The generation that draws a file again, with the given options in place of the file's. Raises `ZoetropeError`."""
    recipe = client.recipe(like)
    for difference in recipe.differences:
        err().print(f"--like: {difference}", markup=False)
    given = {name: value for name, value in generation.fields.items() if value is not None}
    kept = dict(recipe.request)
    for name, others in (("size", ("width", "height")), ("seconds", ("num_frames",))):
        for other in others if name in given else ():
            kept.pop(other, None)
    fields = kept | given
    drawn = fields.pop("prompt", "")
    return generation._replace(prompt=generation.prompt or drawn, fields=fields)


def _drawn(client: Client, generation: Generation) -> Job:
    """The job, succeeded. Ctrl-C cancels it, whenever it comes. Raises `JobFailed`, `JobCancelled`, `WaitTimeout`."""
    # Its id is chosen here, so that it can be cancelled before the service has answered.
    fields = {**generation.fields, "id": generation.fields.get("id") or f"cli-{secrets.token_hex(10)}"}
    try:
        job = client.submit(generation.prompt, **fields)
        if not generation.as_json:
            err().print(f"job {job.id}: {job.model}, seed {job.seed}", markup=False)
            for warning in job.warnings:
                err().print(f"warning: {warning}", markup=False)
        with Bar(client.url, quiet=generation.as_json) as bar:
            for event in client.events(job, timeout_s=generation.timeout):
                bar.show(event.job)
                if is_draft(event.job):
                    break
        job = client.job(job.id)
    except KeyboardInterrupt:
        _cancel(client, fields["id"])
        sys.exit(130)
    if not job.is_final and not is_draft(job):
        raise WaitTimeout(f"job {job.id} is {job.state} after {generation.timeout:g} s; it goes on", job)
    return job.raise_for_state()


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def is_draft(job: Job) -> bool:
    """Whether a job waits as a draft for its commit."""
    return job.state == "parked" and (job.parking or {}).get("reason") == "draft"


def _cancel(client: Client, job_id: str) -> None:
    try:
        outcome = client.cancel(job_id).outcome
    except NotFound:
        err().print("stopped before the job was submitted")
    except ZoetropeError as error:
        err().print(
            f"job {job_id} could not be cancelled: {error}; `zoetrope cancel {job_id}` tries again", markup=False
        )
    else:
        message = f"job {job_id} was over already" if outcome == "already_final" else f"cancelled job {job_id}"
        err().print(message, markup=False)


def _fetch(client: Client, job: Job, to: Path | None) -> list[Path]:
    """Download the job's files: the first to `to`, the others beside it with their numbers."""
    files = []
    for number, artefact in enumerate(job.artefacts, start=1):
        place = to or Path(job.id).with_suffix(Path(artefact.name).suffix)
        if place.is_dir():
            place = place / artefact.name
        elif number > 1:
            place = place.with_stem(f"{place.stem}-{number}")
        files.append(Path(client.download(job, place, name=artefact.name).path))
    return files


class Bar:
    """Progress of one job on stderr: a bar on a terminal, a line a phase elsewhere."""

    def __init__(self, url: str, *, quiet: bool = False) -> None:
        console = err()
        self._url = url
        self._live = console.is_terminal and not quiet
        self._quiet = quiet
        self._printed = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task("submitted", total=100, left="")

    def __enter__(self) -> Bar:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def show(self, job: Job) -> None:
        """Show where the job is."""
        left = f"{span(job.eta_s)} left" if job.eta_s else ""
        if job.preview:
            left += f"  {self._url}{job.preview}"
        self._progress.update(self._task, description=progress_text(job), completed=job.progress, left=left)
        phase = progress_text(job).partition(" ")[0]
        if not self._live and not self._quiet and phase != self._printed:
            self._printed = phase
            err().print(progress_text(job), markup=False)


def progress_text(job: Job) -> str:
    """Progress of a job, in a few words: `queued, 3 before it`, `denoise 4/10`, `succeeded`."""
    if job.state == "running":
        return f"{job.phase or 'running'} {job.step}/{job.total}" if job.total else job.phase or "running"
    if job.state == "queued" and job.position is not None:
        return f"queued, {job.position} before it"
    if job.state == "parked":
        return f"parked ({(job.parking or {}).get('reason') or 'no reason is known'})"
    return job.state

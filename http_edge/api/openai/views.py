"""A job as OpenAI's `Video` object, with the fields that vLLM-Omni's and SGLang's clients read beside it.

Public states are four. `progress` never falls, and is 100 exactly when the status is completed. Fields that OpenAI's schema has are always
there, null where it allows null. `stage_durations`, `inference_time_s` and `peak_memory_mb` are what the engine measured.
"""

from __future__ import annotations

import math

from broker.wire.failures import FailureKind
from broker.wire.jobspec import Artefact, JobSpec, Scalar
from broker.wire.messages import JobView
from http_edge.api.common.job_json import warnings_of
from http_edge.api.openai import schema_openai as schema
from http_edge.base.job_names import shown_id
from http_edge.jobs.job import Job
from http_edge.jobs.progress import Progress
from http_edge.media.artefacts import file_name

VIDEO_ORIGIN = "openai-videos"
IMAGE_ORIGIN = "openai-images"

#: Bounds of the time until the next poll, and that time when the end is not known: milliseconds.
_POLL_LEAST_MS, _POLL_MOST_MS, _POLL_MS = 100, 5_000, 500
#: SDKs keep the first answer's interval for the whole wait, so it is a small part of what is left.
_POLLS = 10

#: Code of a cancelled video.
_CANCELLED = "cancelled"


def echo_of(*, model: str, seconds: str = "", remixed_from: str = "") -> dict[str, Scalar]:
    """Build the part of a job's spec that only its answers repeat; the engine does not read it."""
    echo: dict[str, Scalar] = {"model": model}
    if seconds:
        echo["seconds"] = seconds
    if remixed_from:
        echo["remixed_from"] = remixed_from
    return echo


def model_of(job: Job) -> str:
    """The model's name as the client wrote it, else its own."""
    return _echo(job, "model") or job.view.submission.model


def status_of(view: JobView) -> schema.VideoStatus:
    """The public status. A job that has begun is in progress, also while it waits for its next attempt."""
    if view.state == "succeeded":
        return "completed"
    if view.state in ("failed", "cancelled"):
        return "failed"
    return "in_progress" if view.state == "running" or view.attempts else "queued"


def video_json(job: Job, progress: Progress, base_url: str | None, *, fresh: bool = False) -> schema.Video:
    """The `Video` object. `base_url`: what its link begins with; None: there is no link, as it would need a key.

    `fresh`: the answer to its creation, which is queued at 0 whatever happened since.
    """
    view, spec = job.view, job.spec
    status: schema.VideoStatus = "queued" if fresh else status_of(view)
    made = view.result.artefacts[0] if status == "completed" and view.result and view.result.artefacts else None
    took = measured(job)
    video = schema.Video(
        id=shown_id(view.id),
        object="video",
        model=model_of(job),
        status=status,
        progress=0 if fresh else progress.of(view),
        created_at=int(view.submitted_at),
        completed_at=int(view.finished_at) if status == "completed" else None,
        expires_at=int(job.expires_at) or None,
        prompt=spec.requested_prompt if spec else None,
        seconds=_seconds(job),
        size=_size(spec, made),
        remixed_from_video_id=_echo(job, "remixed_from") or None,
        error=error_json(view),
        inference_time_s=took.inference_time_s,
        stage_durations=took.stage_durations,
        peak_memory_mb=took.peak_memory_mb,
        num_outputs=took.num_outputs,
        file_name=file_name(view, 0, made) if made else None,
        media_type=made.media_type if made else "video/mp4",
        url=f"{base_url}/v1/videos/{shown_id(view.id)}/content" if made and base_url is not None else None,
        eta_s=round(view.eta_s, 3) if view.eta_s >= 0 and status in ("queued", "in_progress") else None,
        queue_position=view.position if view.position >= 0 else None,
        warnings=list(warnings_of(job)),
    )
    if spec is not None:
        _show_settings(video, spec, made)
    return video


def error_json(view: JobView) -> schema.VideoError | None:
    """Build the `error` member; null for a job that completed or has not ended."""
    if view.state == "cancelled":
        return schema.VideoError(code=_CANCELLED, message="The job was cancelled.")
    if view.state != "failed":
        return None
    if view.failure is None:
        return schema.VideoError(code=FailureKind.ENGINE_ERROR, message="The job failed.")
    kind = view.failure.kind
    return schema.VideoError(code=kind, message=view.failure.message or f"The job failed: {kind}.")


def poll_after_ms(view: JobView) -> str:
    """Return the milliseconds until the next poll, from the job's predicted end."""
    if view.eta_s < 0:
        return str(_POLL_MS)
    return str(min(_POLL_MOST_MS, max(_POLL_LEAST_MS, math.ceil(view.eta_s * 1000 / _POLLS))))


def measured_headers(job: Job) -> dict[str, str]:
    """Build the headers of vLLM-Omni's synchronous route about a result's making."""
    result = job.view.result
    stages = ", ".join(
        f'"{name}": {seconds:.6f}' for name, seconds in (result.stage_durations if result else {}).items()
    )
    return {
        "X-Video-Id": job.id,
        "X-Model": _header(model_of(job)),
        "X-Inference-Time-S": f"{job.view.run_s:.6f}",
        "X-Stage-Durations": "{" + stages + "}",
        "X-Peak-Memory-MB": f"{result.peak_memory_mb if result else 0.0:.1f}",
        **({"X-Seed": str(job.spec.seed)} if job.spec else {}),
    }


def measured(job: Job) -> schema.Measured:
    """Build the measurements of a finished job that benchmark programs read."""
    result = job.view.result
    return schema.Measured(
        inference_time_s=round(job.view.run_s, 6) if job.view.run_s else None,
        stage_durations=result.stage_durations if result else {},
        peak_memory_mb=result.peak_memory_mb if result else None,
        num_outputs=len(result.artefacts) if result else 0,
    )


def _show_settings(video: schema.Video, spec: JobSpec, made: Artefact | None) -> None:
    """Fill in what the video is drawn with."""
    frames = made.num_frames if made and made.num_frames else spec.num_frames
    video.num_frames = frames
    video.fps = spec.fps
    video.duration_s = round(frames / spec.fps, 6)
    video.seed = spec.seed
    video.negative_prompt = spec.negative_prompt or None
    video.num_inference_steps = spec.num_inference_steps
    video.guidance_scale = spec.guidance_scale
    video.quality = "standard"


def _seconds(job: Job) -> str:
    """Return the seconds requested, unless the model could not; the clip's own length where none were."""
    requested = _echo(job, "seconds")
    if requested or job.spec is None:
        return requested or "0"
    return f"{job.spec.num_frames / job.spec.fps:.6g}"


def _size(spec: JobSpec | None, made: Artefact | None) -> str:
    if made and made.width and made.height:
        return f"{made.width}x{made.height}"
    return f"{spec.width}x{spec.height}" if spec else ""


def _echo(job: Job, name: str) -> str:
    value = job.spec.echo.get(name) if job.spec else None
    return value if isinstance(value, str) else ""


def _header(text: str) -> str:
    """A client's text as a header may carry it."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)

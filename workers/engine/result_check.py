"""Check of a job's files against its spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker.wire.jobspec import Artefact, JobSpec
from workers.engine.errors import EngineError

#: Rates are written as fractions: 23.976 becomes 24000/1001.
_FPS_SHARE = 0.002
#: An MP4 has the length of a stream in whole milliseconds.
_SOUND_S = 0.01


def differences(spec: JobSpec, artefacts: Sequence[Artefact]) -> Iterator[str]:
    """A sentence for every difference that a client can live with. Raises `EngineError` for those that no job may end well with."""
    if len(artefacts) != spec.num_outputs:
        raise EngineError(f"{len(artefacts)} files were made, {spec.num_outputs} were asked for")
    for artefact in artefacts:
        yield from _of_file(spec, artefact)


def _of_file(spec: JobSpec, artefact: Artefact) -> Iterator[str]:
    kind = artefact.media_type.partition("/")[0]
    if kind != spec.output:
        raise EngineError(f"{artefact.name} is {artefact.media_type}, asked for was an {spec.output}")
    # 0: not known.
    if artefact.width and (_even(artefact.width), _even(artefact.height)) != (_even(spec.width), _even(spec.height)):
        yield f"size: {spec.width}x{spec.height} was asked for, {artefact.name} is {artefact.width}x{artefact.height}"
    if kind != "video":
        return
    if artefact.num_frames and artefact.num_frames != spec.num_frames:
        yield f"num_frames: {spec.num_frames} were asked for, {artefact.name} has {artefact.num_frames}"
    if artefact.fps and abs(artefact.fps - spec.fps) > _FPS_SHARE * spec.fps:
        yield f"fps: {spec.fps:g} was asked for, {artefact.name} has {artefact.fps:g}"
    clip_s = artefact.num_frames / artefact.fps if artefact.fps else 0.0
    if artefact.sound_s and clip_s and abs(artefact.sound_s - clip_s) > _SOUND_S:
        yield f"sound: that of {artefact.name} lasts {artefact.sound_s:.2f} s, its pictures {clip_s:.2f} s"


def _even(side: int) -> int:
    """A side as a video holds it, which has pairs of rows and columns."""
    return side + side % 2

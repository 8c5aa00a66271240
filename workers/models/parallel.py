"""Sharing of a model's denoising by several GPUs that draw one job: `parallel` in its table, and what its pipeline allows. Pure.

- `sequence`: each GPU takes a part of the sequence of tokens, and a share of the heads of attention.
- `guidance`: of the two passes of a step, with the prompt and without it, each of two GPUs takes one.
- `both`: each half of the GPUs shares the sequence of one pass. A job without guidance: as `sequence`.
- `auto`: whichever of these fits the number of GPUs and the job; sharing guidance first, as that sends least from GPU to GPU.

Both are known by test for the classes named here; of others is not known what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from broker.wire.jobspec import ModelCard
from workers.models.denoisers import DENOISERS
from workers.models.placement import Placement
from workers.models.sources import config
from workers.models.speed import Speed

ParallelSetting = Literal["auto", "sequence", "guidance", "both"]

#: Attention backends that compute a part of the heads of a sequence that is spread over GPUs (diffusers 0.42).
SPLIT_ATTENTION = (
    "native", "_native_cudnn", "_native_flash", "flash", "flash_hub", "flash_varlen_hub", "_flash_3_hub", "_flash_3_varlen_hub",
    "sage", "sage_hub",
)  # fmt: skip

#: Pipelines whose sequences were seen to be shared: what is drawn is the same, or differs in the last bits (Flux, Qwen-Image, whose text
#: and picture are attended in another order).
_SEQUENCES = frozenset({
    "ChronoEditPipeline", "Flux2KleinPipeline", "Flux2Pipeline", "FluxImg2ImgPipeline", "FluxKontextPipeline", "FluxPipeline",
    "QwenImageImg2ImgPipeline", "QwenImagePipeline", "WanImageToVideoPipeline", "WanPipeline",
})  # fmt: skip

#: Pipelines that were seen to make two passes a step with guidance, and to touch the outcome of the first only after the second.
_GUIDANCE = frozenset({
    "CogView4Pipeline", "FluxPipeline", "HunyuanVideoPipeline", "OvisImagePipeline", "QwenImageImg2ImgPipeline", "QwenImagePipeline",
    "SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Pipeline", "WanImageToVideoPipeline", "WanPipeline", "WanVACEPipeline",
})  # fmt: skip

_UNKNOWN = "nothing is known of its parts"


class Indivisible(Exception):
    """Too many GPUs, or too few, for a job of this model; the reason in one sentence."""


class Layout(Struct, frozen=True):
    """Numbers of shares into which guidance and sequences are parted."""

    guidance: int = 1
    sequence: int = 1

    def __str__(self) -> str:
        shares = (("guidance", self.guidance), ("sequence", self.sequence))
        return " and ".join(f"{name} over {number} GPUs" for name, number in shares if number > 1)


#: Placements in which each GPU has all weights of the denoisers while it draws.
WHOLE: tuple[Placement, ...] = ("resident", "text_encoder_aside", "text_encoder_streamed")


class Parallel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Setting of a model's table, and reasons why its passes cannot be shared, each the rest of a sentence ("": they can)."""

    setting: ParallelSetting = "auto"
    #: Heads of attention, of each of its denoisers.
    heads: tuple[int, ...] = ()
    no_sequence: str = _UNKNOWN
    no_guidance: str = _UNKNOWN


def parallel_for(
    setting: ParallelSetting, pipeline: str, index: Mapping[str, Any], directory: Path | None, speed: Speed
) -> Parallel:
    """Look up what can be shared of a model of this pipeline class and index, made quicker so."""
    there = [part for part in DENOISERS if any(index.get(part) or ())]
    known = pipeline in _SEQUENCES
    # Of other classes a configuration may list the heads of each block.
    heads = tuple(int(config(directory, part).get("num_attention_heads") or 0) for part in there if known)
    no_sequence = ""
    if not known:
        no_sequence = f"the sequence of {pipeline} is not known to be divisible"
    elif not heads or not all(heads):
        no_sequence = "its configuration does not say how many heads its attention has"
    elif speed.attention and speed.attention not in SPLIT_ATTENTION:
        with_these = ", ".join(SPLIT_ATTENTION)
        no_sequence = f"speed.attention is {speed.attention!r}, and a sequence is shared with {with_these}"
    elif speed.compile:
        no_sequence = "speed.compile is on, and attention that is spread over GPUs cannot be compiled"
    no_guidance = "" if pipeline in _GUIDANCE else f"{pipeline} is not known to make two passes a step"
    return Parallel(setting=setting, heads=heads, no_sequence=no_sequence, no_guidance=no_guidance)


def layout_for(parallel: Parallel, ranks: int, *, guided: bool) -> Layout:
    """Choose the layout of a job, with or without guidance, on so many GPUs. Raises `Indivisible`."""
    reasons: list[str] = []
    for layout in _layouts_of(parallel.setting, ranks, guided=guided):
        why = _why_not(parallel, layout)
        if not why:
            return layout
        reasons.append(why)
    if not guided and parallel.setting == "guidance":
        reasons.append("without guidance there is one pass a step")
    if not reasons:
        reasons.append(f"guidance has two branches, and there are {ranks} GPUs")
    raise Indivisible(
        f"{ranks} GPUs cannot share a job {'with' if guided else 'without'} guidance: {'; '.join(reasons)}"
    )


def on_group(card: ModelCard, parallel: Parallel, ranks: int) -> ModelCard:
    """The card of a model on a worker of so many GPUs: its `setup` has how they share jobs, or why they cannot."""
    if ranks == 1 or card.engine == "fake":
        return card
    layouts = [_as_text(parallel, ranks, guided=False)]
    if card.takes_guidance and (guided := _as_text(parallel, ranks, guided=True)) != layouts[0]:
        layouts = [guided, f"without guidance: {layouts[0]}"]
    return replace(card, setup={**card.setup, "parallel": "; ".join(layouts)})


def _as_text(parallel: Parallel, ranks: int, *, guided: bool) -> str:
    try:
        return str(layout_for(parallel, ranks, guided=guided))
    except Indivisible as error:
        return str(error)


def _layouts_of(setting: ParallelSetting, ranks: int, *, guided: bool) -> tuple[Layout, ...]:
    """Layouts that would do, the best first."""
    sequence, halves = Layout(sequence=ranks), Layout(guidance=2, sequence=ranks // 2)
    even = guided and ranks % 2 == 0
    match setting:
        case "sequence":
            return (sequence,)
        case "guidance":
            return (halves,) if even and ranks == 2 else ()
        case "both":
            return (halves,) if even else () if guided else (sequence,)
    return (halves, sequence) if even else (sequence,)


def _why_not(parallel: Parallel, layout: Layout) -> str:
    if layout.guidance > 1 and parallel.no_guidance:
        return parallel.no_guidance
    if layout.sequence > 1:
        if parallel.no_sequence:
            return parallel.no_sequence
        for heads in parallel.heads:
            if heads % layout.sequence:
                return f"{heads} heads of attention cannot be parted among {layout.sequence} GPUs"
    return ""

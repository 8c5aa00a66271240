"""Placement of a model's weights while it draws: `placement` in its table, and the choice where the table leaves it open. Pure.

From the fastest to the one that needs least of the device:

- `resident`: all weights are on the device, always.
- `text_encoder_aside`: the text encoders only while they encode, all else always. At once: all weights, while denoising without encoders.
- `text_encoder_streamed`: the same, but the encoders come one layer at a time. At once: all weights but theirs, and the largest layer.
- `model`: one component at a time. At once: the largest.
- `group`: the VAE always; the denoiser's blocks one after another, the next on its way meanwhile; an encoder while it encodes. At once:
  the VAE, and two blocks with what is outside of all blocks, or an encoder.
- `leaf`: the VAE always, of all else one layer at a time. At once: the VAE and the largest layer.

A job needs memory on top of the weights, in its denoise stage and in its postprocess stages. That is not computed but measured: it
is learned by the job's shape, and of a shape that was not drawn yet only as much is assumed as is known from others. Bytes throughout.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

Placement = Literal["resident", "text_encoder_aside", "text_encoder_streamed", "model", "group", "leaf"]
PlacementSetting = Literal["auto", "resident", "text_encoder_aside", "text_encoder_streamed", "model", "group", "leaf"]

#: From the fastest to the one that needs least.
ORDER: tuple[Placement, ...] = get_args(Placement)

#: Chosen by the memory that there is.
AUTO: PlacementSetting = "auto"

#: Kept free for what no measurement of tensors shows: workspaces of cuBLAS and cuDNN, the holes between blocks of memory.
RESERVE = 1536 * 2**20

#: More than any device has.
_MUCH = 2**60

#: A placement that is left for a slower one is not taken up again before it would have done for so many jobs in a row.
_STEADY = 8

Role = Literal["encoder", "denoiser", "decoder"]


class Component(Struct, frozen=True, kw_only=True):
    """Component of a pipeline: its role, and the bytes of its weights on the device."""

    name: str
    role: Role
    size: int
    #: The largest of its blocks (0: it has none), and what is outside of all blocks.
    block: int = 0
    unblocked: int = 0
    #: Its largest layer.
    leaf: int = 0


class Need(Struct, frozen=True):
    """Memory that a job takes on top of the weights, as far as is known; 0 where it is not."""

    denoise: int = 0
    postprocess: int = 0


class DoesNotFit(Exception):
    """No placement that is allowed leaves enough room; the numbers in one sentence."""


def role_of(name: str) -> Role:
    """Return the role of a pipeline's component by its name."""
    if name.startswith(("text_encoder", "prior_text_encoder", "conditioner")):
        return "encoder"
    decodes = ("vae", "vqvae", "movq", "vqgan", "vocoder", "image_decoder")
    return "decoder" if any(part in name for part in decodes) else "denoiser"


def peak(placement: Placement, components: Iterable[Component], need: Need) -> int:
    """Most that weights and job take at once in this placement."""
    parts = tuple(components)
    encoders = [part for part in parts if part.role == "encoder"]
    denoisers = [part for part in parts if part.role == "denoiser"]
    decoders = sum(part.size for part in parts if part.role == "decoder")
    every = sum(part.size for part in parts)
    match placement:
        case "resident":
            return every + max(need.denoise, need.postprocess)
        case "text_encoder_aside":
            rest = every - sum(part.size for part in encoders)
            return max(every, rest + max(need.denoise, need.postprocess))
        case "text_encoder_streamed":
            rest = every - sum(part.size for part in encoders)
            return rest + max(_most(part.leaf for part in encoders), need.denoise, need.postprocess)
        case "model":
            return max(
                _most(part.size for part in encoders),
                _most(part.size for part in denoisers) + need.denoise,
                decoders + need.postprocess,
            )
        case "group":
            moving = max(
                _most(part.size for part in encoders), _most(_streamed(part) for part in denoisers) + need.denoise
            )
            return decoders + max(moving, need.postprocess)
        case "leaf":
            moving = max(_most(part.leaf for part in encoders), _most(part.leaf for part in denoisers) + need.denoise)
            return decoders + max(moving, need.postprocess)


def _most(sizes: Iterable[int]) -> int:
    return max(sizes, default=0)


def _streamed(part: Component) -> int:
    """A denoiser whose blocks come one by one, the next on its way."""
    return min(part.size, 2 * part.block + part.unblocked) if part.block else part.size


def fits(placement: Placement, components: Iterable[Component], need: Need, limit: int) -> bool:
    """Whether a process that can hold `limit` bytes has room for it, and the reserve."""
    return peak(placement, components, need) + RESERVE <= limit


def choose(
    components: Sequence[Component],
    need: Need,
    limit: int,
    wanted: PlacementSetting = AUTO,
    possible: Sequence[Placement] = ORDER,
) -> Placement:
    """The fastest placement that fits, of those that are `possible` with this pipeline; the `wanted` one, if it is given.

    Raises `DoesNotFit` with the numbers: before a job begins, and not after it has failed.
    """
    allowed = [placement for placement in ORDER if placement in possible and wanted in (AUTO, placement)]
    for placement in allowed:
        if fits(placement, components, need, limit):
            return placement
    least = allowed[-1] if allowed else ORDER[0]
    weights = peak(least, components, Need())
    extra = peak(least, components, need) - weights
    work = f", a job of this size {_gib(extra)} on top" if extra else ""
    way = f"with placement {least}" if wanted != AUTO else "at the least"
    raise DoesNotFit(
        f"its weights take {_gib(weights)} {way}{work}, and {_gib(RESERVE)} are kept free; there are {_gib(limit)}"
    )


def cures(
    components: Sequence[Component],
    need: Need,
    limit: int,
    wanted: PlacementSetting = AUTO,
    possible: Sequence[Placement] = ORDER,
    full: Container[str] = (),
) -> tuple[str, ...]:
    """Remedies where `choose` finds nothing: settings of the model's table, each with what it takes, and a smaller job.

    `full`: names of components whose weights are not quantised, and can be.
    """
    found = []
    allowed = [placement for placement in ORDER if placement in possible and wanted in (AUTO, placement)]
    others = [placement for placement in ORDER if placement in possible and placement not in allowed]
    for placement in others:
        if fits(placement, components, need, limit):
            found.append(f'placement = "{placement}" takes {_gib(peak(placement, components, need))}')
            break
    for roles in (("denoiser",), ("encoder",), ("denoiser", "encoder")):
        names = [part.name for part in components if part.role in roles and part.name in full]
        smaller = [_halved(part) if part.name in names else part for part in components]
        fitting = next((one for one in allowed if names and fits(one, smaller, need, limit)), None)
        if fitting is not None:
            methods = ", ".join(f'{name} = "fp8"' for name in names)
            found.append(f"speed.quantize = {{ {methods} }} takes about {_gib(peak(fitting, smaller, need))}")
            break
    for percent in range(90, 0, -10):
        part = Need(need.denoise * percent // 100, need.postprocess * percent // 100)
        if part != need and any(fits(one, components, part, limit) for one in allowed):
            found.append(f"a job of about {percent} % of this one's pixels fits as it is")
            break
    return tuple(found)


def _halved(part: Component) -> Component:
    """The component with its weights in eight bits in place of sixteen."""
    return replace(part, size=part.size // 2, block=part.block // 2, unblocked=part.unblocked // 2, leaf=part.leaf // 2)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def room(placement: Placement, components: Iterable[Component], limit: int) -> int:
    """Return the memory that a job may take on top of the weights in this placement."""
    parts = tuple(components)
    return limit - RESERVE - (peak(placement, parts, Need(_MUCH, _MUCH)) - _MUCH)


class Settled(Struct):
    """The placement of one model over its jobs: weights move when they must, and back when it has long been worth it."""

    now: Placement | None = None
    #: Jobs in a row for which a faster one would have done, and the slowest of those.
    faster: int = 0
    other: Placement | None = None

    def settle(self, best: Placement, still_fits: bool) -> Placement:
        """The placement for a job whose best is `best`; `still_fits`: whether the present one has room for it."""
        now = self.now
        if now is None or not still_fits:
            self.now, self.faster, self.other = best, 0, None
        elif ORDER.index(best) >= ORDER.index(now):
            self.faster, self.other = 0, None
        else:
            self.faster += 1
            self.other = best if self.other is None else max(self.other, best, key=ORDER.index)
            if self.faster >= _STEADY:
                self.now, self.faster, self.other = self.other, 0, None
        assert self.now is not None
        return self.now

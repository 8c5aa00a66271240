"""Request fields -> `JobSpec`: read what the client wants, then fit it to a model's card with one clear error. Shared by all API families.

Reading (`read_wanted`) needs no model; fitting (`build_spec`) needs its card. Neither touches a file: paths are checked by
`inputs` and `exports`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from broker.wire import codec
from broker.wire.jobspec import MAX_PROMPT_CHARS, JobSpec, Limits, MediaKind, ModelCard, Scalar, encode_spec
from http_edge.aspect import size_for
from http_edge.errors import EdgeError, invalid, shown
from http_edge.fields import MAX_INT, Reader
from http_edge.spool import MAX_TEXT_BYTES

#: Fields that `read_wanted` understands, by our names.
KNOWN_FIELDS = (
    "model",
    "output",
    "prompt",
    "negative_prompt",
    "size",
    "width",
    "height",
    "seconds",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "max_sequence_length",
    "seed",
    "num_outputs",
    "image",
    "extra",
    "save_to",
)

MAX_PATH_CHARS = 1024
#: An image may come as base64, which the body's own cap bounds.
MAX_IMAGE_CHARS = MAX_TEXT_BYTES
_MAX_FPS = 240.0
_MAX_SECONDS = 3600.0
#: Wide enough for a sane message; the model's own limits decide.
_MAX_SIDE = 1_000_000


class Wanted(Struct, frozen=True, kw_only=True):
    """What a request asks for; None where it leaves the choice to the model's defaults."""

    prompt: str
    negative_prompt: str | None = None
    model: str | None = None
    output: str | None = None
    width: int | None = None
    height: int | None = None
    #: The picture's shape, width to height, where a request gives neither: fitted to the model's usual number of pixels.
    aspect: tuple[int, int] | None = None
    num_frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    max_sequence_length: int | None = None
    seed: int | None = None
    num_outputs: int | None = None
    #: Paths as the client wrote them; "" when it gave none.
    image: str = ""
    save_to: str = ""
    extra: dict[str, Scalar] = {}
    #: Pictures to show while each output is being denoised.
    previews: int = 0
    #: Our name -> the client's, where they differ.
    labels: dict[str, str] = {}

    def label(self, name: str) -> str:
        """The client's name of a field."""
        return self.labels.get(name, name)


def read_wanted(reader: Reader) -> Wanted:
    """The generation fields of a request. Raises `EdgeError` naming field, value and rule."""
    size = reader.size("size")
    width = reader.integer("width", 1, _MAX_SIDE)
    height = reader.integer("height", 1, _MAX_SIDE)
    labels = {name: reader.label(name) for name in KNOWN_FIELDS if reader.label(name) != name}
    if size is not None:
        # `size` wins over width and height, as in the servers whose requests we take.
        width, height = size
        labels |= {"width": reader.label("size"), "height": reader.label("size")}
    return Wanted(
        prompt=reader.required_text("prompt", max_chars=MAX_PROMPT_CHARS, min_chars=1),
        negative_prompt=reader.text("negative_prompt", max_chars=MAX_PROMPT_CHARS),
        model=reader.text("model", max_chars=256) or None,
        output=_output(reader),
        width=width,
        height=height,
        num_frames=reader.integer("num_frames", 1, 100_000),
        seconds=reader.number("seconds", 0.001, _MAX_SECONDS, text=True),
        fps=reader.number("fps", 1.0, _MAX_FPS),
        num_inference_steps=reader.integer("num_inference_steps", 1, 10_000),
        guidance_scale=reader.number("guidance_scale", 0.0, 100.0),
        guidance_scale_2=reader.number("guidance_scale_2", 0.0, 100.0),
        max_sequence_length=reader.integer("max_sequence_length", 1, 65_536),
        seed=reader.integer("seed", 0, MAX_INT),
        num_outputs=reader.integer("num_outputs", 1, 10),
        image=reader.text("image", max_chars=MAX_IMAGE_CHARS) or "",
        save_to=reader.text("save_to", max_chars=MAX_PATH_CHARS) or "",
        extra=reader.scalars("extra"),
        labels=labels,
    )


def _output(reader: Reader) -> str | None:
    output = reader.text("output", max_chars=16) or None
    if output not in (None, "video", "image"):
        raise reader.fault("output", 'must be "video" or "image"')
    return output


def echoed_image(text: str) -> str:
    """A client's image as records repeat it: paths and URLs as they are, base64 by its beginning."""
    return text if len(text) <= MAX_PATH_CHARS else f"{text[:64]}… ({len(text)} characters)"


def build_spec(wanted: Wanted, card: ModelCard, *, seed: int, echo: dict[str, Scalar] | None = None) -> JobSpec:
    """The complete spec of a request on this model; `image` and `save_to` are still as the client wrote them.

    Raises `EdgeError`. `seed` is used when the request brings none.
    """
    output = _output_of(wanted, card)
    _check_image(wanted, card, output)
    defaults, limits = card.defaults, card.limits
    width, height = _size(wanted, card)
    _check_side(wanted, "width", width, limits)
    _check_side(wanted, "height", height, limits)
    if width * height > limits.max_pixels:
        label = wanted.label("width")
        raise invalid(
            label, f"{width}x{height}", f"has {width * height} pixels; this model takes at most {limits.max_pixels}"
        )
    fps = wanted.fps or defaults.fps
    steps = wanted.num_inference_steps or defaults.num_inference_steps
    if steps > limits.max_steps:
        raise invalid(wanted.label("num_inference_steps"), steps, f"must be 1 to {limits.max_steps}")
    return JobSpec(
        model=card.name,
        output=output,
        prompt=wanted.prompt,
        negative_prompt=_or(wanted.negative_prompt, defaults.negative_prompt),
        width=width,
        height=height,
        num_frames=_frames(wanted, card, output, fps),
        fps=fps,
        num_inference_steps=steps,
        guidance_scale=_or(wanted.guidance_scale, defaults.guidance_scale),
        guidance_scale_2=_or(wanted.guidance_scale_2, defaults.guidance_scale_2),
        max_sequence_length=_or(wanted.max_sequence_length, defaults.max_sequence_length),
        seed=_or(wanted.seed, seed),
        num_outputs=wanted.num_outputs or 1,
        image=wanted.image,
        extra=wanted.extra,
        save_to=wanted.save_to,
        echo=echo or {},
        previews=wanted.previews,
    )


def encode_checked(spec: JobSpec) -> bytes:
    """The spec's bytes. Raises `EdgeError` when they are more than the wire carries."""
    body = encode_spec(spec)
    if len(body) > codec.MAX_BODY:
        raise EdgeError("too_large", f"body: the job takes {len(body)} bytes, at most {codec.MAX_BODY}")
    return body


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _output_of(wanted: Wanted, card: ModelCard) -> MediaKind:
    if wanted.output is None or wanted.output == card.output:
        return card.output
    if wanted.output == "image" and card.also_image:
        return "image"
    raise invalid(
        wanted.label("output"), wanted.output, f"is not what model {shown(card.name)} makes: {shown(card.output)}"
    )


def _check_image(wanted: Wanted, card: ModelCard, output: MediaKind) -> None:
    if wanted.image and not card.draws_from_image(output):
        rule = f"is refused: model {shown(card.name)} takes no image"
        raise invalid(wanted.label("image"), wanted.image, f"{rule} for an image" if card.takes_image else rule)
    if card.needs_image and not wanted.image:
        label = wanted.label("image")
        raise EdgeError("missing_field", f"{label}: model {shown(card.name)} needs an image", param=label)


def _size(wanted: Wanted, card: ModelCard) -> tuple[int, int]:
    if wanted.aspect is None or wanted.width is not None or wanted.height is not None:
        return wanted.width or card.defaults.width, wanted.height or card.defaults.height
    size = size_for(wanted.aspect, card)
    if size is None:
        rule = f"is a shape that model {shown(card.name)} cannot draw"
        raise invalid(wanted.label("aspect"), "{}:{}".format(*wanted.aspect), rule)
    return size


def _check_side(wanted: Wanted, name: str, value: int, limits: Limits) -> None:
    label = wanted.label(name)
    subject = name if label == name else f"{name} {value} of {label}"
    step = limits.side_multiple
    if not limits.min_side <= value <= limits.max_side:
        rule = f"must be {limits.min_side} to {limits.max_side}"
    elif value % step:
        rule = f"must be a multiple of {step}; nearest: {_nearest(value, step, limits.min_side, limits.max_side)}"
    else:
        return
    raise EdgeError(
        "invalid_value",
        f"{subject}: {value} {rule}" if label == name else f"{subject} {rule}",
        param=label,
        value=value,
    )


def _frames(wanted: Wanted, card: ModelCard, output: MediaKind, fps: float) -> int:
    limits = card.limits
    if output == "image":
        if wanted.num_frames not in (None, 1):
            raise invalid(wanted.label("num_frames"), wanted.num_frames, "must be 1: this job makes images")
        return 1
    if wanted.num_frames is not None:
        frames = wanted.num_frames
        if not limits.allows_frames(frames):
            nearest = " or ".join(str(count) for count in limits.nearest_frames(frames))
            raise invalid(wanted.label("num_frames"), frames, f"must be {limits.frame_rule()}; nearest: {nearest}")
        return frames
    if wanted.seconds is None:
        return card.defaults.num_frames
    frames, too_long = limits.closest_frames(wanted.seconds * fps)
    if too_long:
        takes = f"at {fps:g} frames per second takes {round(wanted.seconds * fps)} frames"
        longest = f"this model makes at most {frames} ({frames / fps:.4g} s)"
        raise invalid(wanted.label("seconds"), wanted.seconds, f"{takes}; {longest}")
    return frames


def _nearest(value: int, step: int, low: int, high: int) -> str:
    """The valid neighbours of a value on the grid step x k, as text."""
    below = value // step * step
    return " or ".join(str(near) for near in (below, below + step) if low <= near <= high)

"""Job spec, which edges write, engines read and the broker carries unopened, and the card of a model.

Names are those of diffusers' pipelines (`num_inference_steps`, `guidance_scale`, `num_frames`, ...). Sizes are pixels, `fps` is
frames per second, times are seconds. Structs here are encoded as msgpack maps and skip unknown keys, so an edge one version
ahead of an engine can add a field with a default.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from string import ascii_letters, digits
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from broker.wire.inputs import INPUT_FILE, StartFrames
from broker.wire.loras import MAX_LORAS, LoraCard, LoraUse
from broker.wire.sampling import Sampler

Scalar = str | int | float | bool | None

#: Longest prompt, in characters. Text encoders read a few hundred tokens; this leaves room for every one of them.
MAX_PROMPT_CHARS = 20_000

#: Bounds of a spec's numbers: what any service could take. A model's own limits are narrower.
MAX_SIDE = 16_384
MAX_FRAMES = 100_000
MAX_STEPS = 10_000
MAX_TOKENS = 65_536
MAX_OUTPUTS = 10
#: Of one output.
MAX_PREVIEWS = 8
#: What msgpack, JSON readers and torch all hold.
MAX_INT = 2**63 - 1

#: What may name a job: safe as a path component, a URL segment and a client-side file name.
JOB_ID_RULE = "1 to 64 characters of A-Z a-z 0-9 _ -"
_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: An edge may put a tag of the tenant before it.
JOB_ID_PATTERN = rf"(?:[0-9a-f]{{12}}\.)?{_CLIENT_ID.pattern}"
_JOB_ID = re.compile(JOB_ID_PATTERN)
_ID_CHARACTERS, _MAX_CLIENT_ID = f"{ascii_letters}{digits}_-", 64

_ARTEFACT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

#: Sentences about one job from the engine that drew it, and the length of each.
MAX_WARNINGS = 16
MAX_WARNING_CHARS = 500

#: Notes on what a job was drawn with: their most, and the length of a name and of a value.
MAX_USED, MAX_USED_NAME, MAX_USED_CHARS = 32, 64, 500

#: Most work that a job is counted as, in steps x latent tokens.
MAX_UNITS = 1e15

MediaKind = Literal["video", "image"]

#: How freely blocks are left out in steps that resemble each other.
CacheMode = Literal["off", "safe", "fast"]

#: The phases of one attempt, in order. `warm_up`: a model in memory is called for the first time, and what is compiled is. `finished`:
#: computed, the broker's acknowledgement is awaited.
#: How a job's model is placed: as planned, or in less memory and slower, after a job ran out of it.
Profile = Literal["normal", "offload"]

PHASES = ("load", "warm_up", "encode", "denoise", "decode", "save", "finished")
Phase = Literal["", "load", "warm_up", "encode", "denoise", "decode", "save", "finished"]


def is_client_id(text: str) -> bool:
    """Whether a client may call a job this (see `JOB_ID_RULE`)."""
    return _CLIENT_ID.fullmatch(text) is not None


def is_job_id(text: str) -> bool:
    """Whether `text` may name a job: what a client may call one, alone or behind a tag."""
    # Most ids have no tag. That no other character is in it costs less to check without a regular expression.
    if not text.strip(_ID_CHARACTERS):
        return 0 < len(text) <= _MAX_CLIENT_ID
    return _JOB_ID.fullmatch(text) is not None


def is_artefact_name(text: str) -> bool:
    """Whether a file that a job made may be called this."""
    return _ARTEFACT_NAME.fullmatch(text) is not None


class JobSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Specification of one job, complete: every default is already filled in by the edge, the seed is drawn."""

    #: Name of the model, as its card gives it.
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    output: MediaKind
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS)]
    negative_prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] = ""
    width: Annotated[int, Meta(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Meta(ge=1, le=MAX_SIDE)]
    #: Frames in the clip; 1 for an image.
    num_frames: Annotated[int, Meta(ge=1, le=MAX_FRAMES)] = 1
    #: Frames per second of the file (23.976 becomes 24000/1001).
    fps: Annotated[float, Meta(gt=0, le=1000)] = 16.0
    num_inference_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    #: None leaves the pipeline's own default.
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    max_sequence_length: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    #: Always present: an absent seed is drawn once by the edge, recorded here and returned to the client.
    seed: Annotated[int, Meta(ge=0, le=MAX_INT)]
    num_outputs: Annotated[int, Meta(ge=1, le=MAX_OUTPUTS)] = 1
    #: Absolute path of the first-frame or source image, checked and spooled by the edge; "" when there is none.
    image: str = ""
    #: Further arguments of the pipeline's call, passed on only if the pipeline takes them.
    extra: dict[str, Scalar] = msgspec.field(default_factory=dict)
    #: Path of a copy that the client requested: absolute, checked; "": none. Filled by the edge after publication.
    save_to: str = ""
    #: The client's own request fields, for APIs whose replies repeat them. No engine reads this.
    echo: dict[str, Scalar] = msgspec.field(default_factory=dict)
    #: Pictures to write while each output is being denoised, as `preview_name` calls them; a pipeline that cannot writes none.
    previews: Annotated[int, Meta(ge=0, le=MAX_PREVIEWS)] = 0
    #: The request's place in a trace, from its header; goes into log lines.
    traceparent: Annotated[str, Meta(max_length=64)] = ""
    #: Span of the request's client, 16 hex digits; "": it named none. No engine reads this.
    parent_span: Annotated[str, Meta(max_length=16)] = ""
    #: Of a request with an idempotency key: SHA-256 of its content, hex. No engine reads this.
    request_digest: Annotated[str, Meta(max_length=64)] = ""
    #: What of the request was changed or is ignored, one sentence each. No engine reads this.
    warnings: tuple[str, ...] = ()
    #: Preset of the card by which the steps are taken; "" for the model's own way.
    preset: Annotated[str, Meta(max_length=256)] = ""
    #: The step cache; "" for the model's usual one.
    cache: Literal["", "off", "safe", "fast"] = ""
    #: Further media by role (`inputs.ROLES`): absolute paths of files that the edge checked and spooled, as that of `image`.
    inputs: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    #: LoRAs of the card that it is drawn with.
    loras: Annotated[tuple[LoraUse, ...], Meta(max_length=MAX_LORAS)] = ()
    #: Whether its files have their recipe (`broker.wire.recipe`).
    recipe: bool = True
    #: The client's own prompt, where a prompt enhancer wrote `prompt`; "" where none did. No engine reads this.
    original_prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] = msgspec.field(default="", name="asked_prompt")

    @property
    def requested_prompt(self) -> str:
        """The prompt as the client wrote it."""
        return self.original_prompt or self.prompt

    @property
    def enhanced_prompt(self) -> str | None:
        """The prompt that a prompt enhancer wrote; None where none did."""
        return self.prompt if self.original_prompt else None

    def input_paths(self) -> tuple[str, ...]:
        """The files of all inputs, the image's first."""
        return (*((self.image,) if self.image else ()), *(path for paths in self.inputs.values() for path in paths))


class Defaults(Struct, frozen=True, kw_only=True):
    """Defaults of a model: what a request that gives only a prompt gets."""

    width: int = 832
    height: int = 480
    num_frames: int = 81
    fps: float = 16.0
    num_inference_steps: int = 40
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    max_sequence_length: int | None = None
    negative_prompt: str = ""


class Limits(Struct, frozen=True, kw_only=True):
    """Limits of a model; outside them a request is refused with the rule in words."""

    min_side: int = 16
    max_side: int = 2048
    #: Width and height must be multiples of this.
    side_multiple: int = 16
    max_pixels: int = 2048 * 2048
    max_frames: int = 257
    #: Frame counts are `frame_offset` + `frame_step` x k (the VAE's temporal compression); others are refused, naming the nearest. The
    #: offset is the smallest count; 0 stands for a step.
    frame_step: int = 4
    max_steps: int = 200
    frame_offset: int = 1
    #: The only frame counts there are, rising, where they follow no such rule; then step and offset do not count.
    frame_choices: tuple[int, ...] = ()

    def allows_frames(self, frames: int) -> bool:
        """Whether a clip of this model may have so many frames."""
        return frames in self.nearest_frames(frames)

    def nearest_frames(self, frames: float) -> tuple[int, ...]:
        """The allowed count itself, else its allowed neighbours below and above, rising. Never empty for limits that allow any."""
        if self.frame_choices:
            below = [count for count in self.frame_choices if count <= frames]
            above = [count for count in self.frame_choices if count >= frames]
            return tuple(dict.fromkeys((*below[-1:], *above[:1])))
        step = max(1, self.frame_step)
        least = self.frame_offset or step
        most = (self.max_frames - least) // step * step + least
        below_count = int((frames - least) // step) * step + least
        near = (below_count,) if below_count == frames else (below_count, below_count + step)
        return tuple(dict.fromkeys(min(max(count, least), most) for count in near))

    def closest_frames(self, frames: float) -> tuple[int, bool]:
        """(the allowed count closest to a wished length, whether the wish is longer than any clip of this model)."""
        closest = min(self.nearest_frames(frames), key=lambda count: (abs(count - frames), count))
        slack = 0.5 if self.frame_choices else max(1, self.frame_step) / 2
        return closest, frames - closest > slack

    def frame_rule(self) -> str:
        """Which frame counts are allowed, in words."""
        if self.frame_choices:
            return " or ".join(str(count) for count in self.frame_choices)
        step = max(1, self.frame_step)
        least, most = self.nearest_frames(0)[0], self.nearest_frames(self.max_frames)[-1]
        if step == 1:
            return f"{least} to {most}"
        grid = f"{step}k+{self.frame_offset % step}" if self.frame_offset % step else f"{step}k"
        return f"{least} to {most} and {grid} ({least}, {least + step}, {least + 2 * step}, ...)"


#: Pipelines that bring their image to a working size of their own; all others expect one of the size they draw. Those of Flux that draw
#: over an image draw in the size of that.
_WHOLE_IMAGE = re.compile(r".*Edit|.*Kontext(?!Inpaint)|.*Flux2(?!.*Inpaint)|.*Layered|ZImageOmni|QwenImage21|OmniGen")


def takes_whole_image(pipeline: str) -> bool:
    """Whether a pipeline of this class gets its image as it came, not cut to the size that is drawn."""
    return _WHOLE_IMAGE.match(pipeline) is not None


class ModelCard(Struct, frozen=True, kw_only=True):
    """Description of a model by a worker that can run it; edges validate requests against it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    #: Name of the engine that runs it: "video", "image" or "fake".
    engine: str
    output: MediaKind
    #: Directory or hub id for `from_pretrained`; read by the engine only.
    source: str = ""
    pipeline: str = ""
    #: Whether the pipeline takes an image (image-to-video, image-to-image), and whether it must have one.
    takes_image: bool = False
    needs_image: bool = False
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    #: Pixels per latent token side (VAE scale x patch) and frames per latent frame: only for the cost prediction.
    token_side: int = 16
    token_frames: int = 4
    #: Whether a video model also makes images: clips of one frame, written as pictures.
    also_image: bool = False
    #: Whether those pictures may be drawn from an image, too.
    also_edits: bool = False
    #: Whether these fields of a job have an effect on what is drawn; what has none is reported to the client, never dropped in silence.
    takes_negative_prompt: bool = True
    takes_guidance: bool = True
    takes_guidance_2: bool = True
    #: Whether the picture has the size that is requested; False where the pipeline chooses it, as some do by the source image's shape.
    takes_size: bool = True
    #: How many times as long as its image's the sides are of what it draws, where a request names no size.
    enlarges: int = 1
    #: What a job's `extra` may carry: the further parameters of the pipeline's call. None: not known, so any.
    extra_parameters: tuple[str, ...] | None = None
    #: Of pipelines that skip part of the steps by `extra.strength`: the strength where a job gives none. See `steps_drawn`.
    default_strength: float | None = None
    #: Whether its pipeline makes sound beside the frames of a clip, by itself or where `extra` requests it.
    sound: bool = False
    #: How its steps are taken where a job names no preset; None: as the pipeline does by itself.
    sampler: Sampler | None = None
    #: Samplers that a job may choose by name.
    presets: dict[str, Sampler] = msgspec.field(default_factory=dict)
    #: Step caches that a job may choose, none where the pipeline has none; and the one of jobs that do not choose.
    caches: tuple[CacheMode, ...] = ()
    cache: CacheMode = "off"
    #: dtype of its VAE where that is not the engine's, as "float32".
    vae_dtype: str = ""
    #: How the operator has set it up, in the words of `Result.used`, as "quantize": "text_encoder int8". No paths.
    setup: dict[str, str] = msgspec.field(default_factory=dict)

    #: Roles of further media (`inputs.ROLES`) that the pipeline takes, and those without which it draws nothing.
    takes_inputs: tuple[str, ...] = ()
    needs_inputs: tuple[str, ...] = ()
    #: LoRAs that a job may request by name.
    loras: dict[str, LoraCard] = msgspec.field(default_factory=dict)
    #: Of a pipeline that takes a `start_video`.
    start_frames: StartFrames | None = None
    #: Whether a job that was interrupted goes on from its last checkpoint.
    resumes: bool = False

    def defaults_with(self, sampler: Sampler) -> Defaults:
        """The defaults, with the steps and guidance of the sampler."""
        first, second = sampler.guidance, sampler.guidance if sampler.guidance_2 is None else sampler.guidance_2
        own = self.defaults
        return replace(
            own,
            num_inference_steps=sampler.own_steps or own.num_inference_steps,
            guidance_scale=first if self.takes_guidance and first is not None else own.guidance_scale,
            guidance_scale_2=second if self.takes_guidance_2 and second is not None else own.guidance_scale_2,
        )

    def makes(self, output: str) -> bool:
        """Whether a job of this model may request `output`."""
        return output == self.output or (output == "image" and self.also_image)

    @property
    def cuts_image(self) -> bool:
        """Whether the pipeline gets its image cut to the shape that is drawn; editing pipelines get it whole."""
        return not takes_whole_image(self.pipeline)

    def draws_from_image(self, output: str) -> bool:
        """Whether such a job may bring an image. A video model keeps it as the first frame: a picture of it would be the same picture."""
        return self.takes_image and (output == self.output or self.also_edits)

    def takes(self, role: str, output: str) -> bool:
        """Whether a job for `output` may carry an input of this role, "image" among them."""
        if role == "image":
            return self.draws_from_image(output)
        return role in self.takes_inputs and output == self.output

    def suits(self, roles: Collection[str], output: str) -> bool:
        """Whether a job for `output` may carry inputs of all these roles, and needs no others."""
        return all(self.takes(role, output) for role in roles) and set(self.needs) <= set(roles)

    @property
    def needs(self) -> tuple[str, ...]:
        """Roles of all inputs without which it draws nothing."""
        return (*(("image",) if self.needs_image else ()), *self.needs_inputs)


def first_call(card: ModelCard, size: tuple[int, int, int], image: str = "") -> JobSpec:
    """The job that warms a model up: two steps in this size (width, height, frames)."""
    usual = card.defaults
    return JobSpec(
        model=card.name,
        output=card.output,
        prompt="a grey wall",
        width=size[0],
        height=size[1],
        num_frames=size[2],
        fps=usual.fps,
        num_inference_steps=2,
        guidance_scale=usual.guidance_scale,
        guidance_scale_2=usual.guidance_scale_2,
        max_sequence_length=usual.max_sequence_length,
        seed=0,
        image=image,
    )


def cost_units(spec: JobSpec, card: ModelCard) -> float:
    """Work in a job: steps x latent tokens x outputs. The broker learns how many seconds a unit takes on each model.

    Latent tokens = ceil(h / side) x ceil(w / side) x (1 + (frames - 1) / frames per latent), as in Wan's 3-D patchify.
    """
    side = max(1, card.token_side)
    tokens = -(-spec.height // side) * -(-spec.width // side)
    latent_frames = 1 + (spec.num_frames - 1) / max(1, card.token_frames)
    return min(float(spec.num_inference_steps * tokens * latent_frames * spec.num_outputs), MAX_UNITS)


def steps_drawn(num_inference_steps: int, strength: float) -> int:
    """Steps that an image-to-image pipeline takes: the first ones are skipped, the more the weaker. None are left below 1."""
    return min(int(num_inference_steps * strength), num_inference_steps)


class Artefact(Struct, frozen=True, kw_only=True):
    """A file a job made, below `<artefacts>/<job id>/<fence>/`."""

    name: Annotated[str, Meta(pattern=rf"^{_ARTEFACT_NAME.pattern}\Z")]
    media_type: Annotated[str, Meta(max_length=128)]
    size: Annotated[int, Meta(ge=0)]
    #: Lower-case hex.
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    width: int = 0
    height: int = 0
    #: 1 for an image; 0 when not known.
    num_frames: int = 0
    fps: float = 0.0
    #: Length of the sound beside a clip, in seconds; 0: it has none.
    sound_s: float = 0.0


class Result(Struct, frozen=True, kw_only=True):
    """Result of a finished attempt. The journal row that holds it is its publication."""

    artefacts: Annotated[tuple[Artefact, ...], Meta(max_length=16)] = ()
    #: Seconds by phase (encode, denoise, decode, save), as measured in the engine.
    stage_durations: dict[str, float] = msgspec.field(default_factory=dict)
    peak_memory_mb: float = 0.0
    seed: int = 0
    #: What was found while drawing that concerns the client, one sentence each.
    warnings: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_WARNING_CHARS)], ...], Meta(max_length=MAX_WARNINGS)
    ] = ()
    #: What it was drawn with beside the model as it is stored, in words: "quantize" -> "transformer fp8".
    used: Annotated[
        dict[Annotated[str, Meta(max_length=MAX_USED_NAME)], Annotated[str, Meta(max_length=MAX_USED_CHARS)]],
        Meta(max_length=MAX_USED),
    ] = msgspec.field(default_factory=dict)

    @property
    def ready_s(self) -> float:
        """Seconds until the model was ready, which the next job need not wait for."""
        return self.stage_durations.get("load", 0.0) + self.stage_durations.get("warm_up", 0.0)


class _Traced(Struct):
    """Part of a spec that `trace_id_of` reads."""

    traceparent: str = ""


class _Prompted(Struct):
    """Part of a spec that `prompt_of` reads."""

    prompt: str = ""


_traced_decoder = msgspec.msgpack.Decoder(_Traced)
_prompt_decoder = msgspec.msgpack.Decoder(_Prompted)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_spec_encoder = msgspec.msgpack.Encoder()
_spec_decoder = msgspec.msgpack.Decoder(JobSpec)


def encode_spec(spec: JobSpec) -> bytes:
    """The body of a `Submit`: the spec as a msgpack map."""
    return _spec_encoder.encode(spec)


def decode_spec(body: bytes) -> JobSpec:
    """The spec in a body. Raises `ValueError` (msgspec's errors and bad UTF-8 are all ValueErrors) when it is not one."""
    try:
        return _spec_decoder.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def prompt_of(body: bytes | None) -> str:
    """The prompt in a spec's bytes, for a search; "" when they are no spec."""
    try:
        return _prompt_decoder.decode(body or b"").prompt
    except (ValueError, RecursionError):
        return ""


def trace_id_of(body: bytes) -> str:
    """The id of the trace that a spec belongs to, for log lines; "" when it has none, or is no spec."""
    try:
        match = _TRACEPARENT.fullmatch(_traced_decoder.decode(body).traceparent)
    # RecursionError: what is skipped may be nested without end.
    except (ValueError, RecursionError):
        return ""
    return match[1] if match else ""


def digest_of(spec: JobSpec) -> str:
    """SHA-256 of a spec, hex: the same on every machine, as inputs count by their names, which are those of their content."""

    def named(path: str) -> str:
        name = path.rpartition("/")[2]
        return name if INPUT_FILE.fullmatch(name) else path

    inputs = {role: tuple(map(named, paths)) for role, paths in spec.inputs.items()}
    return hashlib.sha256(encode_spec(replace(spec, image=named(spec.image), inputs=inputs))).hexdigest()

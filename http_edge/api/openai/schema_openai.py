"""Documents of the OpenAI family: videos, images, models, files. Requests are read leniently, and unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from broker.wire.inputs import StartFrames
from broker.wire.jobspec import MAX_INT, CacheMode, Defaults, Limits, MediaKind
from broker.wire.loras import LoraCard
from broker.wire.sampling import Sampler
from http_edge.api.common.schema_common import FlagText, Hooked, Priority, Prompt, WholeText, request_type
from http_edge.api.openai.fields import POLICY

ImageText = Annotated[
    str | dict[str, Any] | list[Any] | None,
    Meta(description="A URL, data URL, base64, or {image_url} or {file_id}; a file in multipart/form-data."),
]
Nested = Annotated[
    dict[str, Any] | str | None, Meta(description="Further fields, or their JSON text; those beside it win.")
]
Usage = dict[str, Any]


_OF_CLIPS = frozenset(("num_frames", "seconds", "fps"))


class _DrawnFields(Hooked, kw_only=True):
    """Fields of everything that is drawn."""

    seed: Annotated[
        Annotated[int, Meta(ge=-1, le=MAX_INT)] | WholeText | list[int] | None,
        Meta(description="The same seed gives the same result; -1, or none: it is drawn at random."),
    ] = None
    resolution: Any = None
    priority: Priority = None
    user: Any = None
    extra_body: Nested = None
    extra_params: Nested = None


class _VideoFields(_DrawnFields, kw_only=True):
    """A video to draw: OpenAI's fields, and those that vLLM-Omni and SGLang added. What cannot be honoured is named in `warnings`."""

    input_reference: ImageText = None
    image_reference: ImageText = None
    reference_url: ImageText = None


VideoRequest = request_type("VideoRequest", _VideoFields, without=POLICY.without)


class VideoRemixRequest(Hooked, kw_only=True):
    """Another prompt for a finished video."""

    prompt: Prompt


class _VideoExtendFields(_DrawnFields, kw_only=True):
    """A continuation of a finished video, with a model that draws from an image."""

    video: Annotated[str | dict[str, Any], Meta(description="The id of a video, or {id}; `video[id]` in forms.")]


VideoExtendRequest = request_type("VideoExtendRequest", _VideoExtendFields, without=POLICY.without)


class _VideoEditFields(_DrawnFields, kw_only=True):
    """A video to draw over, with a model that takes one."""

    video: Annotated[
        str | dict[str, Any],
        Meta(description="The id of a video, or {id}; `video[id]` in forms; a file, a URL or a data URL."),
    ]


VideoEditRequest = request_type("VideoEditRequest", _VideoEditFields, without=POLICY.without)


class CharacterRequest(Struct, kw_only=True):
    """A character to keep."""

    name: str | None = None
    video: str | dict[str, Any] | None = None


class VideoError(Struct, kw_only=True):
    """Failure of a video; `cancelled` when it was."""

    code: str
    message: str


VideoStatus = Literal["queued", "in_progress", "completed", "failed"]


class Measured(Struct, kw_only=True):
    """Measurements of the engine."""

    inference_time_s: float | None
    stage_durations: dict[str, float]
    peak_memory_mb: float | None
    num_outputs: int


class Video(Struct, kw_only=True):
    """A video job: OpenAI's object, with what vLLM-Omni's and SGLang's clients read beside it."""

    id: str
    object: Literal["video"]
    model: str
    status: VideoStatus
    progress: Annotated[int, Meta(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str | None
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: VideoError | None
    inference_time_s: float | None
    stage_durations: dict[str, float]
    peak_memory_mb: float | None
    num_outputs: int
    num_frames: int | UnsetType = UNSET
    fps: float | UnsetType = UNSET
    duration_s: float | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    negative_prompt: str | UnsetType | None = UNSET
    num_inference_steps: int | UnsetType = UNSET
    guidance_scale: float | UnsetType | None = UNSET
    quality: str | UnsetType = UNSET
    file_name: str | None
    media_type: str
    url: str | None
    eta_s: float | None
    queue_position: int | None
    warnings: list[str]


class VideoPage(Struct, kw_only=True):
    """A page of videos. `last_id` is the next page's `after`: the id of the last video, or where the search broke off."""

    object: Literal["list"]
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None
    searched_to: Annotated[
        float | UnsetType,
        Meta(
            description="The page is short: so far was searched, Unix time, and `after=last_id` goes on from there. Absent: it is whole."
        ),
    ] = UNSET


class VideoDeleted(Struct, kw_only=True):
    """A video that is no more."""

    id: str
    object: Literal["video.deleted"]
    deleted: Literal[True]


# ---------------------------------------------------------------- images


class _ImageFields(_DrawnFields, kw_only=True):
    """Pictures to draw."""

    response_format: Annotated[
        Literal["b64_json", "url", "file", ""] | None,
        Meta(description="`file` answers with the picture itself, a zip file for several."),
    ] = None
    output_format: (
        Annotated[str, Meta(pattern=r"^(png|jpe?g|webp|PNG|JPE?G|WEBP)?$", description="png, jpeg or webp")] | None
    ) = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | WholeText | None = None
    stream: Annotated[bool | FlagText | None, Meta(description="Answer with an event stream.")] = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | Literal["0", "1", "2", "3"] | None = None
    quality: Annotated[str, Meta(max_length=16)] | None = None
    background: Any = None


class _ImageEditFields(_ImageFields, kw_only=True):
    """Pictures to draw from a picture: in `image` (also `image[]`), or by URL in `url`."""

    image: ImageText = None
    url: ImageText = None
    image_url: ImageText = None
    input_reference: ImageText = None
    reference_image: ImageText = None


class _ImageGenerationFields(_ImageFields, kw_only=True):
    """Pictures to draw, from text alone or from a picture in `image`."""

    image: ImageText = None
    image_url: ImageText = None
    input_reference: ImageText = None
    reference_image: ImageText = None


ImageRequest = request_type("ImageRequest", _ImageGenerationFields, without=POLICY.without | _OF_CLIPS)
ImageEditRequest = request_type("ImageEditRequest", _ImageEditFields, without=POLICY.without | _OF_CLIPS)


class ImageItem(Struct, kw_only=True):
    """One picture."""

    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    revised_prompt: str | None


class Appearance(Struct, kw_only=True):
    """Appearance of a picture, in OpenAI's words."""

    background: str
    output_format: str
    quality: str
    size: str


class ImageAnswer(Struct, kw_only=True):
    """Pictures that were drawn."""

    id: str
    object: Literal["image"]
    created: int
    data: list[ImageItem]
    background: str
    output_format: str
    quality: str
    size: str
    usage: Usage
    model: str
    inference_time_s: float | None
    stage_durations: dict[str, float]
    peak_memory_mb: float | None
    num_outputs: int
    seed: int | None
    warnings: list[str]


class ImageEvent(Struct, kw_only=True):
    """A preview or a finished picture in a stream of events."""

    type: str
    id: str
    b64_json: str
    created_at: int
    model: str
    background: str
    output_format: str
    quality: str
    size: str
    #: Of a preview.
    partial_image_index: int | UnsetType = UNSET
    #: Of a finished picture.
    usage: Usage | UnsetType = UNSET
    output_index: int
    warnings: list[str] | UnsetType = UNSET
    inference_time_s: float | UnsetType | None = UNSET
    stage_durations: dict[str, float] | UnsetType = UNSET
    peak_memory_mb: float | UnsetType | None = UNSET
    num_outputs: int | UnsetType = UNSET


# ---------------------------------------------------------------- models and files


class Model(Struct, kw_only=True):
    """A model, or a further name of one: what it draws, its defaults and limits."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    aliases: list[str]
    output: MediaKind
    outputs: list[MediaKind]
    task_type: str
    supported_task_types: list[str]
    pipeline: str | None
    pipeline_name: str | None
    pipeline_class: str | None
    num_gpus: int
    workers: int
    dit_precision: str
    vae_precision: str
    takes_image: bool
    needs_image: bool
    takes_inputs: Annotated[list[str], Meta(description="Fields of further media that it takes.")]
    needs_inputs: Annotated[list[str], Meta(description="Those of them that it draws nothing without.")]
    start_frames: Annotated[
        StartFrames | None,
        Meta(
            description="How many of the last frames of a `start_video` it sees: `least`, or by so many `step`s more, up to `most`; "
            "null: it takes none. `drawn`: they are the first of those drawn, too."
        ),
    ]
    takes_negative_prompt: Annotated[
        bool,
        Meta(description="Whether it has an effect, as the next three; a job with one that has none is warned of."),
    ]
    takes_guidance: Annotated[bool, Meta(description="Of `guidance_scale`.")]
    takes_guidance_2: Annotated[bool, Meta(description="Of `guidance_scale_2`.")]
    takes_size: Annotated[bool, Meta(description="Of `width` and `height`; else the model chooses.")]
    extra_parameters: Annotated[
        list[str] | None, Meta(description="What a request may give in `extra`; null: not known, and any is taken.")
    ]
    default_strength: Annotated[
        float | None,
        Meta(description="Share of the steps that is taken over a picture without `extra.strength`; null: all are."),
    ]
    resumes: Annotated[
        bool,
        Meta(description="Whether a job that was interrupted goes on from its last checkpoint; else it begins anew."),
    ]
    sound: Annotated[
        bool, Meta(description="Whether its clips have sound, by themselves or where `extra` asks for it.")
    ]
    defaults: Defaults
    limits: Limits
    sampler: Annotated[
        Sampler | None,
        Meta(description="How its steps are taken without a preset; null: as its pipeline does by itself."),
    ]
    presets: Annotated[dict[str, Sampler], Meta(description="What a request may give as `preset`, with what it means.")]
    cache: CacheMode
    caches: Annotated[list[CacheMode], Meta(description="What a request may give as `cache`.")]
    loras: Annotated[
        dict[str, LoraCard],
        Meta(
            description="What a request may name in `loras`, with the usual scale and the words that the prompt must have."
        ),
    ]
    setup: Annotated[
        dict[str, str],
        Meta(
            description="How the operator has set it up: attention, compile, warm_up, cache_kind, vae_dtype, quantize, placement, "
            "parts, variant, video_file; in the words of a job's `used`. What is as usual is left out."
        ),
    ]


class ModelList(Struct, kw_only=True):
    """Every model that a worker can run, then their further names."""

    object: Literal["list"]
    data: list[Model]


class ModelInfo(Struct, kw_only=True):
    """The model that a request without one gets."""

    model_path: str
    model: str
    pipeline_class: str | None


class FileRequest(Struct, kw_only=True):
    """A file to keep: `file` must be one, so JSON will not do."""

    file: str
    purpose: Annotated[str, Meta(max_length=64)] | None = None
    expires_after: Annotated[
        dict[str, Any] | str | None,
        Meta(description='`expires_after[anchor]`, "created_at", and `expires_after[seconds]`, 3600 to 2592000.'),
    ] = None


class File(Struct, kw_only=True):
    """An uploaded file's record."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FilePage(Struct, kw_only=True):
    """A page of files. `last_id` is the next page's `after`."""

    object: Literal["list"]
    data: list[File]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FileDeleted(Struct, kw_only=True):
    """A file that is no more."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]

"""A generation request: its fields, each declared once, with its type, bounds, meaning and names.

From this declaration (as a table: `fields.FIELDS`) come the reader of every API family (`read_generation`), the request schemas of the
OpenAPI document (`schema_common.request_type`), and the fields' table in docs/api.md. An alias is a name that means this one field in every
server and tool whose clients come here; a name that means different things in different ones is none.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.wire.inputs import ROLES
from broker.wire.jobspec import (
    MAX_FRAMES,
    MAX_INT,
    MAX_OUTPUTS,
    MAX_PREVIEWS,
    MAX_PROMPT_CHARS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TOKENS,
    CacheMode,
    MediaKind,
    Scalar,
)
from broker.wire.loras import MAX_SCALE
from broker.wire.submission import MAX_GPUS
from http_edge.base.limits import LEAST_TIME_S, MAX_PATH_CHARS, MAX_TEXT_BYTES, MOST_TIME_S
from http_edge.jobs.field_names import read_as
from http_edge.jobs.loras import LoraWish


class Generation(Struct, frozen=True, kw_only=True):
    """Fields of a request; None where it leaves the choice to the model's defaults."""

    prompt: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PROMPT_CHARS,
            pattern=r"\S",
            description="What to draw.",
            examples=["a cat"],
            extra=read_as("text"),
        ),
    ]
    negative_prompt: (
        Annotated[
            str,
            Meta(
                max_length=MAX_PROMPT_CHARS,
                description="What not to draw; an absent one is the model's own, an empty one is empty.",
                extra=read_as("text", "negative", "neg_prompt"),
            ),
        ]
        | None
    ) = None
    model: (
        Annotated[
            str,
            Meta(
                max_length=256,
                description="A name of GET /v1/models.",
                extra=read_as("text", "model_name", "model_id", "model_cls"),
            ),
        ]
        | None
    ) = None
    output: Annotated[MediaKind, Meta(description="What is made.", extra=read_as("choice"))] | None = None
    #: (width, height).
    size: (
        Annotated[
            tuple[int, int],
            Meta(
                description='"WIDTHxHEIGHT" in pixels, or auto.',
                examples=["832x480"],
                extra=read_as("size", "resolution", "target_shape", "custom_shape"),
            ),
        ]
        | None
    ) = None
    width: Annotated[int, Meta(ge=1, le=MAX_SIDE, description="Pixels.", extra=read_as("integer", "w"))] | None = None
    height: Annotated[int, Meta(ge=1, le=MAX_SIDE, description="Pixels.", extra=read_as("integer", "h"))] | None = None
    #: Width to height.
    aspect_ratio: (
        Annotated[
            tuple[int, int],
            Meta(
                description="Width to height at about the model's usual number of pixels, where there is no size.",
                examples=["16:9"],
                extra=read_as("aspect", "aspect"),
            ),
        ]
        | None
    ) = None
    num_frames: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_FRAMES,
                description="Frames of a clip.",
                extra=read_as("integer", "frames", "length", "n_frames", "target_video_length"),
            ),
        ]
        | None
    ) = None
    seconds: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=3600,
                description="Length of the clip, where there is no num_frames.",
                examples=["4"],
                extra=read_as(
                    "number",
                    "duration",
                    "duration_s",
                    "duration_seconds",
                    "video_duration",
                    "video_duration_seconds",
                ),
            ),
        ]
        | None
    ) = None
    fps: (
        Annotated[
            float,
            Meta(
                ge=1,
                le=240,
                description="Frames per second of the file.",
                extra=read_as("number", "frame_rate", "framerate", "frames_per_second", "target_fps"),
            ),
        ]
        | None
    ) = None
    num_inference_steps: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_STEPS,
                description="Denoising steps.",
                extra=read_as(
                    "integer", "steps", "num_steps", "infer_steps", "inference_steps", "sample_steps", "sampling_steps"
                ),
            ),
        ]
        | None
    ) = None
    preset: (
        Annotated[
            str,
            Meta(
                max_length=256,
                description="A preset of the model (GET /v1/models): sampler, steps and guidance that belong together.",
                extra=read_as("text"),
            ),
        ]
        | None
    ) = None
    cache: (
        Annotated[
            CacheMode,
            Meta(
                description="Step cache: leave out blocks in steps that resemble each other; off, safe or fast (lossy).",
                extra=read_as("choice"),
            ),
        ]
        | None
    ) = None
    loras: Annotated[
        tuple[LoraWish, ...],
        Meta(
            description='LoRAs of the model (GET /v1/models) by name: a list of `{"name", "scale"}`, one of them, or a name. A scale '
            'may be an object by component, as `{"transformer": 1, "transformer_2": 0.5}`.',
            examples=[[{"name": "style", "scale": 0.8}]],
            extra=read_as("loras", "lora", "lora_name", "lora_names", "lora_path", "lora_paths"),
        ),
    ] = ()
    lora_strength: (
        Annotated[
            float,
            Meta(
                ge=-MAX_SCALE,
                le=MAX_SCALE,
                description="Scale of the LoRAs that say none.",
                extra=read_as("number", "lora_scale"),
            ),
        ]
        | None
    ) = None
    guidance_scale: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=100,
                description="Strength of the prompt's guidance.",
                extra=read_as("number", "guidance", "cfg_scale", "cfg", "sample_guide_scale"),
            ),
        ]
        | None
    ) = None
    guidance_scale_2: (
        Annotated[
            float,
            Meta(ge=0, le=100, description="The same of the second expert, in models of two.", extra=read_as("number")),
        ]
        | None
    ) = None
    true_cfg_scale: (
        Annotated[
            float,
            Meta(ge=0, le=100, description="Classifier-free guidance of distilled models.", extra=read_as("number")),
        ]
        | None
    ) = None
    flow_shift: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=100,
                description="Shift of a flow-matching scheduler.",
                extra=read_as("number", "sample_shift"),
            ),
        ]
        | None
    ) = None
    strength: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="How far to leave the source image, of models that change one.",
                extra=read_as("number", "denoising_strength", "i2i_denoise_strength"),
            ),
        ]
        | None
    ) = None
    max_sequence_length: (
        Annotated[
            int, Meta(ge=1, le=MAX_TOKENS, description="Tokens of the prompt, at most.", extra=read_as("integer"))
        ]
        | None
    ) = None
    seed: (
        Annotated[
            int,
            Meta(
                ge=-1,
                le=MAX_INT,
                description="The same seed gives the same result; -1, or none: it is drawn at random and returned.",
                extra=read_as("integer", "random_seed"),
            ),
        ]
        | None
    ) = None
    num_outputs: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_OUTPUTS,
                description="How many to make; each further one has the next seed.",
                extra=read_as(
                    "integer",
                    "n",
                    "num_outputs_per_prompt",
                    "num_images",
                    "num_images_per_prompt",
                    "num_videos",
                    "num_videos_per_prompt",
                    "batch_size",
                ),
            ),
        ]
        | None
    ) = None
    recipe: (
        Annotated[
            bool,
            Meta(
                description="Whether the file holds its recipe, so that it can be drawn again: default true.",
                extra=read_as("flag"),
            ),
        ]
        | None
    ) = None
    gpus: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_GPUS,
                description="Draw it on a worker of at least so many GPUs (GET /v1/workers); default: any that has the model.",
                extra=read_as("integer", "num_gpus"),
            ),
        ]
        | None
    ) = None
    draft_steps: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_STEPS,
                description="Draw a draft first: the job waits after so many steps, with a preview, until it is committed.",
                extra=read_as("integer"),
            ),
        ]
        | None
    ) = None
    ready_within_s: (
        Annotated[
            float,
            Meta(
                ge=LEAST_TIME_S,
                le=MOST_TIME_S,
                description="Promise that the job is done within so many seconds, or refuse it with the least that can be promised.",
                extra=read_as("number"),
            ),
        ]
        | None
    ) = None
    ready_confidence: (
        Annotated[
            float,
            Meta(
                ge=0.5,
                le=0.999,
                description="Probability with which a promised time is to be kept; default 0.95.",
                extra=read_as("number"),
            ),
        ]
        | None
    ) = None
    use_prompt_enhancer: (
        Annotated[
            bool,
            Meta(
                description="Whether the service's prompt enhancer writes a fuller prompt first; a job's `spec` shows both.",
                extra=read_as("flag", "enhance_prompt"),
            ),
        ]
        | None
    ) = None
    #: As the client wrote it; "" when it gave none.
    image: Annotated[
        str,
        Meta(
            # It may come as base64, which the body's own cap bounds.
            max_length=MAX_TEXT_BYTES,
            description="First frame or source image: a path, URL, data URL, base64, or the id of an uploaded file.",
            extra=read_as("text", "image_path", "image_url", "image_file", "input_image", "init_image", "first_frame"),
        ),
    ] = ""
    #: Further media, each as the client wrote it.
    last_image: Annotated[
        tuple[str, ...],
        Meta(
            description="Last frame of a clip, with a first one in `image`.",
            extra=read_as(
                "media",
                "last_frame",
                "last_frame_path",
                "last_frame_file",
                "input_last_frame",
                "end_image",
                "end_frame",
                "tail_image",
                "image_end",
            ),
        ),
    ] = ()
    reference_images: Annotated[
        tuple[str, ...],
        Meta(
            description="Further images to draw from, beside `image`.",
            extra=read_as("media", "images", "image_refs", "src_ref_images", "input_images"),
        ),
    ] = ()
    mask_image: Annotated[
        tuple[str, ...],
        Meta(
            description="Where to draw anew: what is transparent, or in a picture without transparency what is white.",
            extra=read_as("media", "mask", "mask_url", "mask_path", "image_mask", "image_mask_path"),
        ),
    ] = ()
    control_image: Annotated[
        tuple[str, ...],
        Meta(
            description="What steers the drawing (edges, depth, a pose), as the model's control network reads it.",
            extra=read_as("media", "control_reference"),
        ),
    ] = ()
    video: Annotated[
        tuple[str, ...],
        Meta(
            description="A clip to draw over. It is seen at `fps` from its beginning, and as long as `num_frames`.",
            extra=read_as(
                "media",
                "video_path",
                "video_file",
                "video_url",
                "video_reference",
                "source_video",
                "input_video",
                "src_video",
            ),
        ),
    ] = ()
    control_video: Annotated[
        tuple[str, ...],
        Meta(description="The same as `control_image`, for every frame.", extra=read_as("media")),
    ] = ()
    pose_video: Annotated[
        tuple[str, ...],
        Meta(
            description="How the one in `image` moves: a clip of a skeleton, as the model was trained on.",
            extra=read_as("media", "src_pose_path"),
        ),
    ] = ()
    face_video: Annotated[
        tuple[str, ...],
        Meta(description="Its face: a clip of one, cut out.", extra=read_as("media", "src_face_path")),
    ] = ()
    mask_video: Annotated[
        tuple[str, ...],
        Meta(
            description="Where to draw anew in each frame of `video` (or `background_video`): what is white.",
            extra=read_as("media", "video_mask", "src_mask", "src_mask_path"),
        ),
    ] = ()
    background_video: Annotated[
        tuple[str, ...],
        Meta(
            description="A clip into which the one in `image` is put, where `mask_video` is white.",
            extra=read_as("media", "src_bg_path"),
        ),
    ] = ()
    start_video: Annotated[
        tuple[str, ...],
        Meta(
            description="A clip to go on from. Its last frames are seen, at `fps`.",
            extra=read_as("media"),
        ),
    ] = ()
    extra: Annotated[
        dict[str, Scalar],
        Meta(
            description="Further arguments of the pipeline's call; `extra[name]` in forms.", extra=read_as("arguments")
        ),
    ] = {}
    #: A path as the client wrote it; "" when it gave none.
    save_to: Annotated[
        str,
        Meta(
            max_length=MAX_PATH_CHARS,
            description="Where to copy the first result.",
            extra=read_as("text", "save_result_path", "save_video_path"),
        ),
    ] = ""
    previews: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_PREVIEWS,
                description="Pictures to show of each output while it is drawn, from models that can give them.",
                extra=read_as("integer"),
            ),
        ]
        | None
    ) = None
    #: Field -> the client's name of it, where they differ.
    labels: dict[str, str] = {}

    def label(self, name: str) -> str:
        """The client's name of a field."""
        return self.labels.get(name, name)

    def roles(self) -> tuple[str, ...]:
        """Roles of the inputs that it brings, "image" among them."""
        return tuple(role for role in ("image", *ROLES) if getattr(self, role))

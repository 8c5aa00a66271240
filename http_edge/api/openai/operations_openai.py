"""The operations of the OpenAI family: videos, images, models."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from http_edge.api.common import schema_jobs as jobs
from http_edge.api.common.openapi_types import (
    BROKER,
    DOWNLOAD,
    EVENTS,
    FILES,
    FORM,
    JSON,
    LOOKUP,
    MAKE,
    PICTURES,
    WAIT,
    Answer,
    Body,
    Operation,
    Param,
)
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, FOLLOW, FOLLOWED, ORDER, RANGES
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai.fields import EDIT_IMAGES
from http_edge.base.error_table import Kind

_VIDEO = Param(name="id", place="path", required=True, about="The video's id.")
_INDEX = Param(name="index", type=Annotated[int, Meta(ge=0, le=1000)], about="The output's number, from 0.")
_FORMAT = Param(name="format", about="png, jpeg or webp.")
_NEXT = ("showVideo", "downloadVideo", "remixVideo", "deleteVideo")
_TAKEN = {
    200: Answer(about="The video, queued.", types=(openai.Video,), links=_NEXT),
    202: Answer(about="The same, with `Prefer: respond-async`.", types=(openai.Video,), links=_NEXT),
}
_VIDEO_FILES = {"input_reference": True, "image_reference": True}
_NO_CHARACTER: tuple[Kind, ...] = (*FORM, "unsupported")

VIDEOS = (
    Operation(
        method="POST",
        path="/v1/videos",
        id="createVideo",
        tag="Videos",
        summary="Draw a video",
        about="Answers at once; the video is drawn in the background.",
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="GET",
        path="/v1/videos",
        id="listVideos",
        tag="Videos",
        summary="A page of videos",
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=0, le=100)], about="At most so many; default 20."),
            AFTER,
            ORDER,
        ),
        answers={200: Answer(about="The page.", types=(openai.VideoPage,))},
        errors=(*BROKER, "invalid_value", "too_many_requests"),
    ),
    Operation(
        method="POST",
        path="/v1/videos/sync",
        id="drawVideo",
        tag="Videos",
        summary="Draw a video, and wait for it",
        about="It is cancelled when its client leaves.",
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers={
            200: Answer(about="The file; with `respond-async` the video.", types=(openai.Video,), media=(*FILES, JSON)),
            202: _TAKEN[202],
        },
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/videos/extensions",
        id="extendVideo",
        tag="Videos",
        summary="Go on from a finished video's last frame",
        body=Body(type=openai.VideoExtendRequest),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/videos/{id}/remix",
        id="remixVideo",
        tag="Videos",
        summary="Draw a finished video anew with another prompt",
        params=(_VIDEO,),
        body=Body(type=openai.VideoRemixRequest, forms=False),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/videos/edits",
        id="editVideo",
        tag="Videos",
        summary="Refused: no model here takes a video to edit",
        body=Body(type=openai.VideoEditRequest),
        answers={},
        errors=(*FORM, *LOOKUP, "unsupported"),
        keyed=True,
        deprecated=True,
    ),
    Operation(
        method="POST",
        path="/v1/videos/characters",
        id="createCharacter",
        tag="Videos",
        summary="Refused: no model here can keep a character",
        body=Body(type=openai.CharacterRequest, required=False),
        answers={},
        errors=_NO_CHARACTER,
        deprecated=True,
    ),
    Operation(
        method="GET",
        path="/v1/videos/characters/{id}",
        id="showCharacter",
        tag="Videos",
        summary="There are no characters",
        params=(Param(name="id", place="path", required=True, about="The character's id."),),
        answers={},
        errors=("not_found",),
        deprecated=True,
    ),
    Operation(
        method="GET",
        path="/v1/videos/{id}",
        id="showVideo",
        tag="Videos",
        summary="One video",
        about="`openai-poll-after-ms` says when to ask again. A failed one is 200 too.",
        params=(_VIDEO,),
        answers={200: Answer(about="The video.", types=(openai.Video,))},
        errors=LOOKUP,
        prefer=True,
    ),
    Operation(
        method="DELETE",
        path="/v1/videos/{id}",
        id="deleteVideo",
        tag="Videos",
        summary="Delete a video and its files, stopping what draws it first",
        params=(_VIDEO,),
        answers={200: Answer(about="It is gone.", types=(openai.VideoDeleted,))},
        errors=(*LOOKUP, "still_stopping"),
    ),
    Operation(
        method="GET",
        path="/v1/videos/{id}/events",
        id="followVideo",
        tag="Videos",
        summary="A video's changes as server-sent events",
        about="Events are named `video.queued`, `video.in_progress`, `video.completed` and `video.failed`; their data is the `Video`.",
        params=(_VIDEO, *FOLLOW),
        answers=FOLLOWED,
        errors=LOOKUP,
    ),
    Operation(
        method="GET",
        path="/v1/videos/{id}/content",
        id="downloadVideo",
        tag="Videos",
        summary="A file of a finished video",
        params=(
            _VIDEO,
            Param(name="variant", about="video, thumbnail, spritesheet, or an output's number from 0."),
            _INDEX,
            _FORMAT,
            *RANGES,
        ),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "too_many_requests"),
    ),
)

_DRAWN = {
    200: Answer(
        about="The pictures: as base64, links, a file, or a stream of events that ends with them.",
        types=(openai.ImageAnswer,),
        media=(JSON, EVENTS, *PICTURES, "application/zip"),
        links=("downloadImage",),
    ),
    202: Answer(about="The job, with `Prefer: respond-async`.", types=(jobs.Job,)),
}

IMAGES = (
    Operation(
        method="POST",
        path="/v1/images/generations",
        id="createImage",
        tag="Images",
        summary="Draw pictures from text, and wait for them",
        body=Body(type=openai.ImageRequest),
        answers=_DRAWN,
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/images/edits",
        id="editImage",
        tag="Images",
        summary="Draw pictures from a picture and text, and wait for them",
        body=Body(type=openai.ImageEditRequest, files={"image": True}, one_of=EDIT_IMAGES),
        answers=_DRAWN,
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/images/variations",
        id="varyImage",
        tag="Images",
        summary="Retired: edits do more",
        answers={},
        errors=("gone",),
        deprecated=True,
    ),
    Operation(
        method="GET",
        path="/v1/images/{id}/content",
        id="downloadImage",
        tag="Images",
        summary="A picture of a finished job",
        params=(
            Param(name="id", place="path", required=True, about="The id of an answer with pictures."),
            _INDEX,
            Param(name="variant", about="image, thumbnail, or a picture's number from 0."),
            _FORMAT,
            Param(name="quality", type=Annotated[int, Meta(ge=0, le=100)], about="Of JPEG and WebP."),
            *RANGES,
        ),
        answers={200: Answer(about="The picture.", types=(bytes,), media=PICTURES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "too_many_requests"),
    ),
)


def _models(path: str, name: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        id=name,
        tag="Models",
        summary="Every model that a worker can run",
        answers={200: Answer(about="The models.", types=(openai.ModelList,))},
        errors=BROKER,
    )


def _info(path: str, name: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        id=name,
        tag="Models",
        summary="The model that a request without one gets",
        answers={200: Answer(about="The model.", types=(openai.ModelInfo,))},
        errors=(*BROKER, "no_workers", "model_not_found", "invalid_value"),
    )


MODELS = (
    _models("/v1/models", "listModels"),
    _models("/models", "listModelsAlias"),
    Operation(
        method="GET",
        path="/v1/models/{id}",
        id="showModel",
        tag="Models",
        summary="One model by its name or a further one",
        params=(Param(name="id", place="path", required=True, about="The name; it may hold slashes."),),
        answers={200: Answer(about="The model.", types=(openai.Model,))},
        errors=(*BROKER, "model_not_found"),
    ),
    _info("/v1/model_info", "showModelInfo"),
    _info("/model_info", "showModelInfoAlias"),
)

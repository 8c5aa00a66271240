"""The operations of the Files API."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from http_edge.api.common.openapi_types import (
    DOWNLOAD,
    FORM,
    Answer,
    Body,
    Operation,
    Param,
)
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, ORDER, RANGES
from http_edge.api.openai import schema_openai as openai

_FILE = Param(name="id", place="path", required=True, about="The file's id.")

UPLOADS = (
    Operation(
        method="POST",
        path="/v1/files",
        id="createFile",
        tag="Files",
        summary="Keep a file",
        about="Its id can be named wherever an image is taken.",
        body=Body(type=openai.FileRequest, json=False, files={"file": False}),
        answers={
            200: Answer(about="Its record.", types=(openai.File,), links=("showFile", "downloadFile", "deleteFile"))
        },
        errors=FORM,
    ),
    Operation(
        method="GET",
        path="/v1/files",
        id="listFiles",
        tag="Files",
        summary="A page of files",
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=1, le=10_000)], about="At most so many."),
            AFTER,
            ORDER,
            Param(name="purpose", type=Annotated[str, Meta(max_length=64)], about="Of this purpose."),
        ),
        answers={200: Answer(about="The page.", types=(openai.FilePage,))},
        errors=("invalid_value", "unavailable", "too_many_requests"),
    ),
    Operation(
        method="GET",
        path="/v1/files/{id}",
        id="showFile",
        tag="Files",
        summary="A file's record",
        params=(_FILE,),
        answers={200: Answer(about="Its record.", types=(openai.File,))},
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="DELETE",
        path="/v1/files/{id}",
        id="deleteFile",
        tag="Files",
        summary="Remove a file",
        about="Jobs that took it have a copy of their own.",
        params=(_FILE,),
        answers={200: Answer(about="It is gone.", types=(openai.FileDeleted,))},
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="GET",
        path="/v1/files/{id}/content",
        id="downloadFile",
        tag="Files",
        summary="A file's bytes, as an attachment",
        params=(_FILE, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=("*/*",)), **FILE_ANSWERS},
        errors=DOWNLOAD,
    ),
)

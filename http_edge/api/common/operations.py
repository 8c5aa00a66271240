"""Parts of operations that several API families share."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from http_edge.http.operation import (
    EVENTS,
    FILES,
    Answer,
    Param,
)

#: Of every stream of a job's events.
FOLLOW = (
    Param(name="Last-Event-ID", place="header", about="The last event that was seen."),
    Param(name="last_event_id", about="The same, for clients that cannot set headers."),
)

FOLLOWED = {
    200: Answer(about="The events.", types=(bytes,), media=(EVENTS,)),
    204: Answer(about="The job is over and its last event was seen."),
}

ORDER = Param(name="order", type=Literal["asc", "desc"], about="By time of creation; default desc.")

AFTER = Param(name="after", about="The id after which to go on: a page's `last_id`.")

RANGES = (
    Param(name="Range", place="header", about="Which bytes, as in `bytes=0-1023`."),
    Param(name="If-None-Match", place="header", about="The ETag of a copy: 304 while it is good."),
    Param(name="download", about="Any text but 0 and false: send it as an attachment, which browsers save."),
)

#: Further answers of every route that sends a file.
FILE_ANSWERS = {
    206: Answer(about="The bytes that `Range` asked for.", types=(bytes,), media=(*FILES, "multipart/byteranges")),
    304: Answer(about="The copy of which `If-None-Match` is the ETag is good."),
}

INDEX = Param(name="index", type=Annotated[int, Meta(ge=0, le=1000)], about="The output's number, from 0.")

FORMAT = Param(name="format", about="png, jpeg or webp.")

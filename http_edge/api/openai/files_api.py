"""OpenAI's Files API: what is uploaded here can be named by its id wherever an image is taken."""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.operations import AFTER, FILE_ANSWERS, ORDER, RANGES
from http_edge.api.openai import schema_openai as openai
from http_edge.base.context import current
from http_edge.base.errors import invalid, not_found
from http_edge.body.fields import Reader, missing
from http_edge.body.forms import Fields, Upload, read_fields
from http_edge.body.json_body import json_response
from http_edge.body.spool import Spool
from http_edge.http.file_response import Download, download
from http_edge.http.operation import DOWNLOAD, FORM, Answer, Body, Param, Tag, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.media.input_store import media_type_of
from http_edge.media.uploads import LONGEST_KEPT_S, StoredFile, Uploads

_DEFAULT_PURPOSE = "user_data"

_DEFAULT_LIMIT = _MAX_LIMIT = 10_000

#: The shortest `expires_after.seconds` that is taken, as OpenAI's.
_MIN_KEPT_S = 3600

_TAG = Tag("Files", "OpenAI's Files API.")

_FILE = Param(name="id", place="path", required=True, about="The file's id.")


class FilesApi:
    """Handlers of uploaded files."""

    def __init__(self, store: Uploads, spool: Spool) -> None:
        self._store = store
        self._spool = spool

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/files", expensive_get=True, POST=self.create, GET=self.list),
            route("/v1/files/{id}", GET=self.show, DELETE=self.delete),
            route("/v1/files/{id}/content", GET=self.content),
        ]

    @operation(
        "createFile",
        _TAG,
        body=Body(type=openai.FileRequest, json=False, files={"file": False}),
        answers={
            200: Answer(about="Its record.", types=(openai.File,), links=("showFile", "downloadFile", "deleteFile"))
        },
        errors=FORM,
    )
    async def create(self, request: Request) -> Response:
        """Keep a file.

        Its id can be named wherever an image is taken.
        """
        async with await read_fields(request) as fields:
            upload = fields.upload("file")
            if upload is None:
                if fields.values.get("file") is not None:
                    raise invalid("file", fields.values["file"], "is not a file; send it as multipart/form-data")
                raise missing(["file"])
            purpose = Reader(fields.values).text("purpose", max_chars=64) or _DEFAULT_PURPOSE
            kept_s = _kept_s(fields)
            tenant = current().caller.tenant
            record = await self._spool.in_thread(lambda: self._add(upload, purpose, kept_s, tenant))
        return json_response(_file_json(record))

    @operation(
        "showFile",
        _TAG,
        params=(_FILE,),
        answers={200: Answer(about="Its record.", types=(openai.File,))},
        errors=("not_found", "unavailable"),
    )
    async def show(self, request: Request) -> Response:
        """A file's record."""
        return json_response(_file_json(await self._record(request)))

    @operation(
        "listFiles",
        _TAG,
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=1, le=10_000)], about="At most so many."),
            AFTER,
            ORDER,
            Param(name="purpose", type=Annotated[str, Meta(max_length=64)], about="Of this purpose."),
        ),
        answers={200: Answer(about="The page.", types=(openai.FilePage,))},
        errors=("invalid_value", "unavailable"),
    )
    async def list(self, request: Request) -> Response:
        """A page of files."""
        reader = Reader(request.query_params, place="query")
        order = reader.choice("order", ("asc", "desc")) or "desc"
        limit = reader.integer("limit", 1, _MAX_LIMIT) or _DEFAULT_LIMIT
        purpose = reader.text("purpose", max_chars=64)
        after = reader.text("after", max_chars=64)
        records = await self._spool.in_thread(lambda: self._store.records(time.time()))
        if order == "asc":
            records.reverse()
        caller = current().caller
        found = [
            record for record in records if purpose in (None, "", record.purpose) and caller.may_see(record.tenant)
        ]
        if after:
            ids = [record.id for record in found]
            found = found[ids.index(after) + 1 :] if after in ids else []
        page = found[:limit]
        return json_response(
            openai.FilePage(
                object="list",
                data=[_file_json(record) for record in page],
                has_more=len(found) > limit,
                first_id=page[0].id if page else None,
                last_id=page[-1].id if page else None,
            )
        )

    @operation(
        "deleteFile",
        _TAG,
        params=(_FILE,),
        answers={200: Answer(about="It is gone.", types=(openai.FileDeleted,))},
        errors=("not_found", "unavailable"),
    )
    async def delete(self, request: Request) -> Response:
        """Remove a file.

        Jobs that took it have a copy of their own.
        """
        record = await self._record(request)
        await self._spool.in_thread(lambda: self._store.delete(record.id))
        return json_response(openai.FileDeleted(id=record.id, object="file", deleted=True))

    @operation(
        "downloadFile",
        _TAG,
        params=(_FILE, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=("*/*",)), **FILE_ANSWERS},
        errors=DOWNLOAD,
    )
    async def content(self, request: Request) -> Response:
        """A file's bytes, as an attachment."""
        record = await self._record(request)
        path = self._store.data_path(record.id)
        file = Download(
            root=path.parent,
            path=path,
            size=record.size,
            sha256=record.sha256,
            media_type=record.media_type,
            name=record.file_name or record.id,
            inline=False,
        )
        return await download(request, file)

    async def _record(self, request: Request) -> StoredFile:
        file_id = request.path_params["id"]
        record = await self._spool.in_thread(lambda: self._store.get(file_id, time.time()))
        if record is None or not current().caller.may_see(record.tenant):
            raise not_found("file", file_id)
        return record

    def _add(self, upload: Upload, purpose: str, kept_s: int, tenant: str) -> StoredFile:
        now = time.time()
        return self._store.add(
            upload.path,
            file_name=upload.file_name.replace("\\", "/").rpartition("/")[2],
            purpose=purpose,
            media_type=media_type_of(upload.path),
            now=now,
            expires_at=now + kept_s if kept_s else 0.0,
            tenant=tenant,
        )


def _kept_s(fields: Fields) -> int:
    """Seconds of `expires_after`, 0 when the file is kept until it is deleted. Raises `EdgeError`."""
    after = fields.json_member("expires_after")
    if after is None:
        return 0
    if after.get("anchor") != "created_at":
        raise invalid("expires_after[anchor]", after.get("anchor"), 'must be "created_at"')
    seconds = Reader({"expires_after[seconds]": after.get("seconds")}).integer(
        "expires_after[seconds]", _MIN_KEPT_S, LONGEST_KEPT_S
    )
    if seconds is None:
        raise missing(["expires_after[seconds]"])
    return seconds


def _file_json(record: StoredFile) -> openai.File:
    return openai.File(
        id=record.id,
        object="file",
        bytes=record.size,
        created_at=int(record.created_at),
        expires_at=int(record.expires_at) or None,
        filename=record.file_name,
        purpose=record.purpose,
        status="processed",
        status_details=None,
    )

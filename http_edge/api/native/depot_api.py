"""The depot's routes: files that workers of other machines put, and inputs that they fetch, each request signed (`broker.depot.tokens`)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from anyio.to_thread import run_sync
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from broker.depot import tokens
from broker.depot.object_store import StoreError
from broker.wire.job_files import checkpoint_of, is_draft_name
from broker.wire.jobspec import JOB_ID_RULE, is_artefact_name, is_job_id
from broker.wire.terms import FINAL_NAMES
from http_edge.base.context import SERVICE, current
from http_edge.base.errors import EdgeError, Kind, invalid, not_found
from http_edge.base.limits import CLOSE
from http_edge.body.json_body import json_response
from http_edge.http.file_response import Download, download
from http_edge.http.operation import LOOKUP, Answer, Param, Tag, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService
from http_edge.media.depot_files import DepotFiles, sha256_of

_TAG = Tag("Depot", "For workers on machines that share no disk with this one. Every request is signed by its worker.")

_BYTES = "application/octet-stream"

_SIGNED = (
    Param(name="worker", about="Name of the worker that signed.", required=True),
    Param(name="expires", type=int, about="Unix time from which the signature is good no more.", required=True),
    Param(name="signature", about="HMAC-SHA256 of the request, hex.", required=True),
)
_FILE = (
    Param(name="size", type=int, about="Bytes of the file.", required=True),
    Param(name="sha256", about="SHA-256 of its bytes, hex.", required=True),
)
_ID = Param(name="id", place="path", about="The job.", required=True)
_FENCE = Param(name="fence", place="path", about="The token of the attempt.", required=True)
_NAME = Param(name="name", place="path", about="The file.", required=True)

_ERRORS: tuple[Kind, ...] = (*LOOKUP, "forbidden", "invalid_value")
_PUT_ERRORS: tuple[Kind, ...] = (*_ERRORS, "wrong_state", "disk_full", "too_large", "request_timeout")
_PUT = {
    200: Answer(about="This very file was there.", types=(None,)),
    201: Answer(about="The file is kept.", types=(None,)),
}


class DepotCheckpoints(Struct, kw_only=True):
    """A job's checkpoints, one of each output: names of those here, keys of those in the object store."""

    object: Literal["list"]
    data: list[str]
    stored: list[str]


class DepotApi:
    """Handlers of the depot."""

    def __init__(self, calls: JobService, files: DepotFiles) -> None:
        self._calls = calls
        self._files = files
        self._home = calls.settings.home_path

    def routes(self) -> list[EdgeRoute]:
        return [
            route(
                tokens.PREFIX + "artefacts/{id}/{fence}/{name}",
                PUT=self.put_artefact,
                GET=self.has_artefact,
                alone=True,
            ),
            route(tokens.PREFIX + "artefacts/{id}/{fence}", DELETE=self.remove_attempt, alone=True),
            route(tokens.PREFIX + "drafts/{id}/{fence}/{name}", PUT=self.put_draft, alone=True),
            route(tokens.PREFIX + "checkpoints/{id}/{fence}", GET=self.list_checkpoints, alone=True),
            route(
                tokens.PREFIX + "checkpoints/{id}/{fence}/{name}",
                PUT=self.put_checkpoint,
                GET=self.get_checkpoint,
                alone=True,
            ),
            route(tokens.PREFIX + "uploads/{name}", GET=self.get_input, alone=True),
        ]

    @operation("putArtefact", _TAG, params=(_ID, _FENCE, _NAME, *_SIGNED, *_FILE), answers=_PUT, errors=_PUT_ERRORS)
    async def put_artefact(self, request: Request) -> Response:
        """Put a file of an attempt, before its result is reported.

        The attempt must be the job's own and this worker's. Once more with the same bytes is no error.
        """
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        await self._check_attempt(job_id, fence, signed.worker)
        return await self._put(request, self._files.attempt_file(job_id, fence, _name(request)), signed)

    @operation("putDraft", _TAG, params=(_ID, _FENCE, _NAME, *_SIGNED, *_FILE), answers=_PUT, errors=_PUT_ERRORS)
    async def put_draft(self, request: Request) -> Response:
        """Put the draft of a job whose attempt is handed back parked."""
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        name = request.path_params["name"]
        if not is_draft_name(name):
            raise invalid("name", name, "is no draft's: draft.mp4, draft.png, draft-2.mp4, …", place="path")
        view = await self._calls.jobs.view(job_id)
        # Its worker may have handed it back meanwhile.
        if view is None or view.state in FINAL_NAMES or view.fence != fence:
            raise _not_its_own(job_id, fence, signed.worker)
        return await self._put(request, self._files.parked_file(job_id, name), signed)

    @operation("putCheckpoint", _TAG, params=(_ID, _FENCE, _NAME, *_SIGNED, *_FILE), answers=_PUT, errors=_PUT_ERRORS)
    async def put_checkpoint(self, request: Request) -> Response:
        """Put a checkpoint of a job that goes on, in place of that of an earlier step."""
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        name = _checkpoint(request)
        view = await self._calls.jobs.view(job_id)
        # Its worker may have handed it back meanwhile.
        if view is None or view.state in FINAL_NAMES or view.fence != fence or view.worker not in ("", signed.worker):
            raise _not_its_own(job_id, fence, signed.worker)
        _check_signed(signed)
        fresh = await self._files.put_checkpoint(request, job_id, name, signed)
        return Response(status_code=201 if fresh else 200)

    @operation(
        "listCheckpoints",
        _TAG,
        params=(_ID, _FENCE, *_SIGNED),
        answers={200: Answer(about="The newest of each output.", types=(DepotCheckpoints,))},
        errors=_ERRORS,
    )
    async def list_checkpoints(self, request: Request) -> Response:
        """The checkpoints from which an attempt of a job may go on."""
        job_id = await self._own_job(request)
        try:
            names = await run_sync(self._files.store.checkpoints, job_id)
            stored = await run_sync(self._files.store.stored_checkpoints, job_id)
        except StoreError as error:
            raise EdgeError("unavailable", str(error), retry_after_s=5.0, headers=CLOSE) from None
        return json_response(DepotCheckpoints(object="list", data=names, stored=stored))

    @operation(
        "getCheckpoint",
        _TAG,
        params=(_ID, _FENCE, _NAME, *_SIGNED),
        answers={200: Answer(about="The checkpoint's bytes.", types=(bytes,), media=(_BYTES,))},
        errors=(*_ERRORS, "gone", "precondition_failed", "range_not_satisfiable"),
    )
    async def get_checkpoint(self, request: Request) -> Response:
        """Fetch a checkpoint."""
        job_id = await self._own_job(request)
        path = self._files.parked_file(job_id, _checkpoint(request))
        size = await run_sync(_size, path)
        return await download(request, _bytes(self._files.artefacts, path, size, await run_sync(_sha256, path)))

    @operation(
        "hasArtefact",
        _TAG,
        params=(_ID, _FENCE, _NAME, *_SIGNED, *_FILE),
        answers={200: Answer(about="This very file is here.", types=(bytes,), media=(_BYTES,))},
        errors=(*_ERRORS, "gone"),
    )
    async def has_artefact(self, request: Request) -> Response:
        """Whether a file of an attempt is here: the HEAD before it is put again."""
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        path = self._files.attempt_file(job_id, fence, _name(request))
        if not await self._files.holds(path, signed):
            raise not_found("name", path.name)
        return await download(request, _bytes(self._files.artefacts, path, signed.size, signed.sha256))

    @operation(
        "removeAttempt",
        _TAG,
        params=(_ID, _FENCE, *_SIGNED),
        answers={204: Answer(about="Its files are gone.", types=(None,))},
        errors=(*_ERRORS, "wrong_state"),
    )
    async def remove_attempt(self, request: Request) -> Response:
        """Remove the files of an attempt whose result did not count."""
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        view = await self._calls.jobs.view(job_id)
        if view is not None and view.fence == fence:
            if view.state == "succeeded":
                raise EdgeError("wrong_state", f"attempt {fence} of job {job_id} is published", headers=CLOSE)
            if view.state not in FINAL_NAMES and view.worker != signed.worker:
                raise _not_its_own(job_id, fence, signed.worker)
        await run_sync(self._files.store.remove_attempt, job_id, fence)
        return Response(status_code=204)

    @operation(
        "getInput",
        _TAG,
        params=(_NAME, *_SIGNED),
        answers={200: Answer(about="The input's bytes.", types=(bytes,), media=(_BYTES,))},
        errors=(*_ERRORS, "gone", "precondition_failed", "range_not_satisfiable"),
    )
    async def get_input(self, request: Request) -> Response:
        """Fetch an input by the name of its content."""
        await self._signed(request)
        path = self._files.input_file(request.path_params["name"])
        size = await run_sync(_size, path)
        return await download(request, _bytes(self._files.uploads, path, size, path.name.partition(".")[0]))

    # ------------------------------------------------------------ checks

    async def _signed(self, request: Request) -> tokens.Signed:
        """Return what the request was signed for; from here on it may read every tenant's jobs. Raises `EdgeError`."""
        try:
            known = await run_sync(tokens.read_secrets, self._home)
            signed = tokens.verify(known, request.method, request.url.path, request.query_params, time.time())
        except tokens.TokenError as error:
            raise EdgeError(
                "forbidden", f"signature: {error}", param="signature", place="query", headers=CLOSE
            ) from None
        except tokens.SecretError as error:
            raise EdgeError("unavailable", str(error), retry_after_s=5.0, headers=CLOSE) from None
        current().caller = SERVICE
        return signed

    async def _check_attempt(self, job_id: str, fence: int, worker: str) -> None:
        """Raise `EdgeError` unless this attempt is the job's own now, and this worker's."""
        view = await self._calls.jobs.view(job_id)
        if view is None or view.state in FINAL_NAMES or (view.fence, view.worker) != (fence, worker):
            raise _not_its_own(job_id, fence, worker)

    async def _own_job(self, request: Request) -> str:
        """The job whose attempt this is, and the signing worker's. Raises `EdgeError`."""
        signed = await self._signed(request)
        job_id, fence = _attempt(request)
        await self._check_attempt(job_id, fence, signed.worker)
        return job_id

    async def _put(self, request: Request, target: Path, signed: tokens.Signed) -> Response:
        _check_signed(signed)
        fresh = await self._files.put(request, target, signed)
        return Response(status_code=201 if fresh else 200)


def _check_signed(signed: tokens.Signed) -> None:
    if not signed.sha256:
        raise EdgeError("forbidden", "signature: a file is signed with its size and SHA-256", headers=CLOSE)


def _checkpoint(request: Request) -> str:
    name: str = request.path_params["name"]
    if checkpoint_of(name) is None:
        raise invalid("name", name, "is no checkpoint's: OUTPUT-STEP.safetensors", place="path")
    return name


def _not_its_own(job_id: str, fence: int, worker: str) -> EdgeError:
    message = f"attempt {fence} of job {job_id} is not, or no longer, one of worker {worker}"
    return EdgeError("forbidden", message, code="wrong_attempt", headers=CLOSE)


def _attempt(request: Request) -> tuple[str, int]:
    job_id, fence = request.path_params["id"], request.path_params["fence"]
    if not is_job_id(job_id):
        raise invalid("id", job_id, f"is no job's: {JOB_ID_RULE}", place="path")
    if not (fence.isascii() and fence.isdecimal() and len(fence) < 20):
        raise invalid("fence", fence, "is no fence: a whole number", place="path")
    return job_id, int(fence)


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not is_artefact_name(name):
        raise invalid("name", name, "is no artefact's: up to 128 letters, digits, _, . and -", place="path")
    return name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise EdgeError("gone", f"{path.name} is no longer kept") from None


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise EdgeError("gone", f"{path.name} is no longer kept") from None


def _bytes(root: Path, path: Path, size: int, sha256: str) -> Download:
    return Download(root=root, path=path, size=size, sha256=sha256, media_type=_BYTES, name=path.name, inline=False)

"""An edge as depot: files are put there over HTTP, each with a signed request (`broker.depot.tokens`); inputs are fetched the same way.

Calls block and belong to a thread of their own. What may pass by itself (an edge that is away, restarts, is full, has another clock) is
`NotNow`, to be tried again; whether an attempt still counts is for the broker to decide, so that a refusal of the edge is no end either.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from broker.depot import tokens
from broker.depot.tokens import Signed
from broker.runtime.job_paths import open_regular
from broker.wire.job_files import checkpoint_of
from workers.depot.depot import DepotFile, InputGone, NotNow, Refused, Revoked

_CHUNK_BYTES = 256 * 1024
_CONNECT_S = 5.0
#: Longest silence of a connection.
_IDLE_S = 60.0
#: Longest error body that is read.
_MAX_ERROR_BYTES = 8192
_MAX_LIST_BYTES = 65_536


class HttpDepot:
    """Files of one worker at the edge of this URL. `key`: the worker's, "" until the broker has given it."""

    def __init__(self, url: str, worker: str, wall_clock: Callable[[], float] = time.time) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._base = parts.path.rstrip("/")
        self._worker = worker
        self._wall_clock = wall_clock
        self.key = ""

    def put(self, file: DepotFile, revoked: Revoked, *, again: bool) -> None:
        """Put a file; `again`: it may be there already. Raises `NotNow`."""
        path = tokens.PREFIX + file.key
        signed = self._sign(size=file.size, sha256=file.sha256)
        # A refusal may come while the bytes are being sent and break the connection off, its reason unread: so it is checked before.
        if again and self._request("HEAD", path, signed) == 200:
            return
        with self._connection() as connection, open_regular(file.path) as opened:
            self._send(connection, "PUT", path, signed, size=file.size)
            _send_body(connection, opened, revoked)
            status, text = _answer(connection)
        if status not in (200, 201):
            raise NotNow(f"the edge answers {status}{text} to {file.key}")

    def discard(self, job_id: str, fence: int) -> None:
        """Remove what was put of an attempt that does not count. Raises `NotNow`."""
        path = f"{tokens.PREFIX}artefacts/{job_id}/{fence}"
        status = self._request("DELETE", path, self._sign())
        if status not in (204, 409):
            raise NotNow(f"the edge answers {status} to the removal of {job_id}/{fence}")

    def fetch(self, name: str, target: Path, revoked: Revoked) -> None:
        """Fetch an input to the path `target`, whole and with the SHA-256 of its name, or not at all. Raises `NotNow`, `InputGone`."""
        signed = self._sign()
        path = tokens.PREFIX + tokens.input_key(name)
        with self._connection() as connection:
            self._send(connection, "GET", path, signed)
            response = connection.getresponse()
            if response.status != 200:
                text = _reason(response)
                if response.status in (404, 410):
                    raise InputGone(f"the edge keeps the input {name} no longer{text}")
                raise NotNow(f"the edge answers {response.status}{text} to the input {name}")
            _keep(response, target, revoked, f"the input {name}", sha256=name.partition(".")[0])

    def checkpoints(self, job_id: str, fence: int) -> list[str]:
        """The keys of a job's newest checkpoints, one of each output, for its attempt of this fence. Raises `NotNow`, `Refused`."""
        signed, path = self._sign(), tokens.PREFIX + tokens.checkpoints_key(job_id, fence)
        with self._connection() as connection:
            self._send(connection, "GET", path, signed)
            response = connection.getresponse()
            if response.status != 200:
                raise _no(response, f"the checkpoints of {job_id}")
            try:
                found = json.loads(response.read(_MAX_LIST_BYTES))
                names, stored = found["data"], found.get("stored", [])
            except (ValueError, KeyError, TypeError, AttributeError):
                names = stored = None
        if not _are(names, checkpoint_of) or not _are(stored, tokens.checkpoint_at):
            raise NotNow(f"what the edge answers are no checkpoints of {job_id}")
        return [*stored, *(tokens.checkpoint_key(job_id, fence, name) for name in names)]

    def fetch_checkpoint(self, key: str, target: Path, revoked: Revoked) -> None:
        """Fetch a checkpoint to the path `target`, whole or not at all. Raises `NotNow`, `Refused`."""
        signed = self._sign()
        with self._connection() as connection:
            self._send(connection, "GET", tokens.PREFIX + key, signed)
            response = connection.getresponse()
            if response.status != 200:
                raise _no(response, key)
            # What is in it bears a digest, which the engine checks.
            _keep(response, target, revoked, key)

    # ------------------------------------------------------------ requests

    def _sign(self, size: int = 0, sha256: str = "") -> Signed:
        if not self.key:
            raise NotNow("the broker has not yet given the key to the depot: is it older than this worker?")
        expires = int(self._wall_clock() + tokens.VALID_S)
        return Signed(worker=self._worker, expires=expires, size=size, sha256=sha256)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        """A new connection, closed at the end; what fails on it is `NotNow`."""
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT_S, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(_IDLE_S)
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise NotNow(
                f"the edge at {self._host}:{connection.port} cannot be asked: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, signed: Signed, size: int | None = None
    ) -> None:
        connection.putrequest(method, self._base + tokens.sign(self.key, method, path, signed))
        if size is not None:
            connection.putheader("Content-Type", "application/octet-stream")
            connection.putheader("Content-Length", str(size))
        connection.endheaders()

    def _request(self, method: str, path: str, signed: Signed) -> int:
        """The status of a request without a body. Raises `NotNow`."""
        with self._connection() as connection:
            self._send(connection, method, path, signed)
            status, text = _answer(connection)
        if status in (401, 403, 421) or status >= 500:
            raise NotNow(f"the edge answers {status}{text}")
        return status


def _send_body(connection: http.client.HTTPConnection, body: BinaryIO, revoked: Revoked) -> None:
    while chunk := body.read(_CHUNK_BYTES):
        if revoked():
            raise NotNow("it was cancelled")
        try:
            connection.send(chunk)
        except OSError:
            # The edge has refused it; the reason is read where it has arrived.
            return


def _answer(connection: http.client.HTTPConnection) -> tuple[int, str]:
    response = connection.getresponse()
    return response.status, _reason(response)


def _are(texts: Any, read: Callable[[str], object]) -> bool:
    """Whether these are texts that this reads."""
    return isinstance(texts, list) and all(isinstance(text, str) and read(text) for text in texts)


def _no(response: http.client.HTTPResponse, what: str) -> NotNow:
    """The error of a GET that an edge does not answer with the thing: whether it is to be tried again."""
    text = f"the edge answers {response.status}{_reason(response)} to {what}"
    return Refused(text) if response.status in (403, 404, 410, 422) else NotNow(text)


def _reason(response: http.client.HTTPResponse) -> str:
    """Reason in an error's body, behind a colon; "" when there is none."""
    try:
        answer = json.loads(response.read(_MAX_ERROR_BYTES))
        detail = answer.get("detail") or answer["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f": {str(detail)[:500]}"


def _keep(response: http.client.HTTPResponse, target: Path, revoked: Revoked, what: str, sha256: str = "") -> None:
    """Write a body to the path `target`, whole or not at all. `sha256`: its digest, where that is known. Raises `NotNow`."""
    digest, size = hashlib.sha256(), response.length
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                if revoked():
                    raise NotNow("it was cancelled")
                digest.update(chunk)
                file.write(chunk)
            short = size is not None and file.tell() != size
        if short or (sha256 and digest.hexdigest() != sha256):
            raise NotNow(f"what came of {what} is not what it is called by")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)

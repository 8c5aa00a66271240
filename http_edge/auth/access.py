"""Authentication of a request: its API key and idempotency key; 401 without a key.

This runs before all APIs, so that none of them handles keys: their requests to the broker are bounded by `context.current()`.
"""

from __future__ import annotations

from itertools import chain

from starlette.types import Scope

from broker.depot import tokens
from http_edge.auth.keys import KeyRing
from http_edge.auth.web_pages import Sent, close_if_large
from http_edge.base import idempotency
from http_edge.base.context import Caller, Payload, RequestScope
from http_edge.base.errors import EdgeError
from http_edge.base.limits import CLOSE

#: Paths that need no key: for probes, and for readers of the API's description.
OPEN_PATHS = frozenset(
    (
        "/",
        "/health",
        "/healthz",
        "/health_generate",
        "/readyz",
        "/livez",
        "/liveness",
        "/openapi.json",
        "/docs",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
    )
)
#: The files of the web page, which prompts for a key itself; and the requests of workers, which sign them.
_OPEN_PREFIXES = ("/page/", tokens.PREFIX)
_METRICS = "/metrics"

_IDEMPOTENCY_KEY = idempotency.HEADER.lower().encode()

#: Headers of one request, in number and bytes.
_MAX_HEADERS = 128
_MAX_HEADER_BYTES = 64 * 1024

_CHALLENGE = 'Bearer realm="zoetrope"'


class Access:
    """Authenticator of requests. Without a key ring every request may do everything, as one tenant."""

    def __init__(self, keys: KeyRing | None, *, metrics_open: bool) -> None:
        self._keys = keys
        self._open_paths = OPEN_PATHS | {_METRICS} if metrics_open else OPEN_PATHS

    def admit(self, request: RequestScope, scope: Scope, sent: Sent) -> None:
        """Fill in the scope's caller and idempotency key. Raises `EdgeError`."""
        headers = scope["headers"]
        _check_size(headers)
        path = scope["path"]
        if self._keys is not None and path not in self._open_paths and not path.startswith(_OPEN_PREFIXES):
            request.caller = self._caller(self._keys, sent)
        if scope["method"] != "POST" or _IDEMPOTENCY_KEY not in sent:
            return
        key = idempotency.read_key([value.decode("latin-1") for name, value in headers if name == _IDEMPOTENCY_KEY])
        if key:
            request.job_key = idempotency.job_key(request.caller.tenant, path, key)
            request.payload = Payload()
            request.payload.add(scope.get("query_string", b"").decode("latin-1"))

    def _caller(self, keys: KeyRing, headers: Sent) -> Caller:
        """Return the caller of the first key that is known. Raises `EdgeError`.

        Either header will do: clients of other APIs send some bearer token whether or not they were given one.
        """
        sent = _sent_keys(headers)
        for key in sent:
            record = keys.find(key)
            if record is not None:
                return Caller(
                    key_name=record.name,
                    tenant=record.tenant,
                    visible_tenant=record.tenant,
                    max_queued=record.max_queued,
                    max_running=record.max_running,
                    max_priority=record.max_priority,
                    loras=record.loras,
                    recipe=record.recipe,
                    operator=record.operator,
                )
        message = "the API key is not known, or has expired" if sent else "an API key is needed"
        raise EdgeError(
            "unauthorized",
            f"{message}: Authorization: Bearer KEY, or X-API-Key: KEY",
            code="invalid_api_key",
            headers={
                "WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"' if sent else _CHALLENGE,
                **close_if_large(headers),
            },
        )


def _sent_keys(headers: Sent) -> list[str]:
    scheme, _, token = _text(headers, b"authorization").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, _text(headers, b"x-api-key")) if key]


def _text(headers: Sent, name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").strip()


def _check_size(headers: list[tuple[bytes, bytes]]) -> None:
    if len(headers) > _MAX_HEADERS:
        raise EdgeError("headers_too_large", f"headers: {len(headers)} came, at most {_MAX_HEADERS}", headers=CLOSE)
    size = len(b"".join(chain.from_iterable(headers)))
    if size > _MAX_HEADER_BYTES:
        message = f"headers: they have {size} bytes, at most {_MAX_HEADER_BYTES}"
        raise EdgeError("headers_too_large", message, headers=CLOSE)

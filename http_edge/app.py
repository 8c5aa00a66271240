"""The edge as an ASGI application: its parts put together, routes as values, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from pathlib import Path

from msgspec import Struct
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.depot.object_store import store_of
from broker.runtime.curve_keys import peer_key_path, read_peer_key
from broker.runtime.log_actions import Action
from http_edge.api.common.family import Family, Parts
from http_edge.api.common.job_files import WARNINGS_HEADER
from http_edge.api.common.metrics import Metrics
from http_edge.api.lightx2v import family as lightx2v
from http_edge.api.native import family as native
from http_edge.api.openai import family as openai
from http_edge.auth.access import Access
from http_edge.auth.keys import KeyRing
from http_edge.auth.web_pages import WebPages, own_names
from http_edge.background.export_worker import ExportWorker
from http_edge.background.retention import Retention
from http_edge.background.traces import Traces, otlp_exporter
from http_edge.background.webhook_delivery import WebhookDelivery
from http_edge.background.webhook_signing import WebhookSecrets
from http_edge.base.errors import ErrorResponses
from http_edge.base.paths import resolve_roots
from http_edge.base.settings import EdgeSettings
from http_edge.body.spool import Spool
from http_edge.http.routing import EdgeRoute
from http_edge.jobs.deliveries import Deliveries
from http_edge.jobs.hub import Hub
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService
from http_edge.media.depot_files import DepotFiles
from http_edge.media.exports import Exports
from http_edge.media.fetch import Fetcher
from http_edge.media.input_sources import InputSources
from http_edge.media.input_store import InputStore
from http_edge.media.ssrf import SsrfGuard
from http_edge.media.uploads import Uploads
from http_edge.middleware import Middleware
from http_edge.openapi.docs_api import DocsApi
from http_edge.page.page_api import PageApi

log = logging.getLogger(__name__)

#: The API families, in the order in which their routes are matched.
FAMILIES: tuple[Family, ...] = (
    native.FAMILY,
    lightx2v.GEN1,
    lightx2v.TASKS,
    lightx2v.CLOUD,
    openai.FAMILY,
)

#: Headers of an answer that scripts of other origins may read, besides those that CORS always lets them.
_EXPOSED_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "openai-poll-after-ms",
    "Preference-Applied",
    "Repr-Digest",
    "Retry-After",
    "traceparent",
    "x-request-id",
    "x-should-retry",
    WARNINGS_HEADER,
)

#: How long to wait before subscribing again to the events of an absent broker.
_WATCH_RETRY_S = 1.0


class Edge(Struct, frozen=True, kw_only=True):
    """The parts of one edge process."""

    settings: EdgeSettings
    broker: BrokerClient
    hub: Hub
    calls: JobService
    savers: ExportWorker
    metrics: Metrics
    progress: Progress
    spool: Spool
    files: Uploads
    fetcher: Fetcher
    retention: Retention
    depot: DepotFiles
    webhooks: WebhookDelivery
    keys: KeyRing | None
    traces: Traces


def build_edge(
    settings: EdgeSettings,
    start: Path,
    connect: Callable[[Hub], BrokerClient] | None = None,
    fetcher: Fetcher | None = None,
) -> Edge:
    """The parts, wired. `start` is the directory that clients' relative paths start from; nothing runs yet.

    Raises `SettingsError` for a CURVE key that is missing or a `results_store` that cannot be used,
    `KeyFileError` when there should be API keys and they cannot be read, `SecretsError` when a webhook secret is none.
    """
    hub = Hub()
    broker = (connect or _connector(settings))(hub)
    outputs = resolve_roots(settings.output_roots, (start, settings.artefacts_path), start)
    files = Uploads(settings.uploads_path / "files")
    inputs = resolve_roots(settings.input_roots, (start, *outputs), start)
    exports = Exports(settings.home_path, start, outputs, overwrite=settings.save_overwrites)
    kept = InputStore(
        settings.uploads_path,
        start,
        inputs,
        closed=(settings.home_path,) if settings.keys_path else (),
        owner_of=exports.owner,
    )
    spool = Spool(settings.uploads_path / "tmp", settings.upload_limits)
    fetcher = fetcher or Fetcher(SsrfGuard(settings.fetch_allow))
    calls = JobService(
        settings,
        broker,
        hub,
        InputSources(kept, files, fetcher),
        exports,
        check_url=fetcher.check,
        remote=store_of(settings),
    )
    depot = DepotFiles(settings.artefacts_path, settings.uploads_path, calls.deletion.artefacts)
    return Edge(
        settings=settings,
        broker=broker,
        hub=hub,
        calls=calls,
        savers=ExportWorker(calls),
        metrics=Metrics(hub),
        progress=Progress(),
        spool=spool,
        files=files,
        fetcher=fetcher,
        retention=Retention(calls, kept, spool, files),
        depot=depot,
        webhooks=WebhookDelivery(
            calls,
            Deliveries(broker),
            fetcher,
            WebhookSecrets(settings.webhook_secrets, settings.webhook_secret_path),
        ),
        keys=KeyRing(settings.keys_path) if settings.keys_path else None,
        traces=Traces(calls, otlp_exporter() if settings.traces else None),
    )


class EdgeApp(Starlette):
    """ASGI application of the edge, with one middleware."""

    def __init__(self, edge: Edge, routes: list[EdgeRoute], errors: ErrorResponses) -> None:
        super().__init__(routes=routes, lifespan=lambda _: _running(edge))
        self.state.spool = edge.spool
        self._front = Middleware(
            routes,
            Access(edge.keys, metrics_open=edge.settings.metrics_open),
            _web_pages(edge.settings),
            edge.metrics,
            errors,
            edge.spool.limits.request_bytes,
            other=self.router,
            wrap=lambda app: _with_cors(app, edge.settings.cors_origins),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; lifespan and websockets go to Starlette's router."""
        scope["app"] = self
        await self._front(scope, receive, send)


def build_app(edge: Edge) -> Starlette:
    """The application over these parts; its lifespan connects and disconnects the broker."""
    errors = ErrorResponses(FAMILIES)
    parts = Parts(
        calls=edge.calls,
        progress=edge.progress,
        fetcher=edge.fetcher,
        files=edge.files,
        spool=edge.spool,
        metrics=edge.metrics,
        depot=edge.depot,
        version=_version(),
    )
    routes = [one for family in FAMILIES for one in family.routes(parts)] + PageApi(parts.version).routes()
    return EdgeApp(edge, [*routes, *DocsApi(_version(), errors, keys=edge.keys is not None).routes()], errors)


def _web_pages(settings: EdgeSettings) -> WebPages:
    return WebPages(
        allowed_hosts=settings.allowed_hosts,
        cors_origins=settings.cors_origins,
        public_url=settings.public_url,
        own_names=own_names(settings.host),
        keyed=settings.keys_path is not None,
    )


def _with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Add CORS for these origins, outside the check of keys: a browser's preflight brings none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED_HEADERS,
    )


def _connector(settings: EdgeSettings) -> Callable[[Hub], BrokerClient]:
    """Raises `SettingsError` when the broker is to be reached over tcp and there is no key."""
    path = peer_key_path(settings, "edge", "front", settings.front_endpoint)
    key = read_peer_key(path, "edge") if path else None

    def connect(hub: Hub) -> BrokerClient:
        return BrokerClient(
            settings.front_endpoint,
            key=key,
            timeout_s=settings.broker_timeout_s,
            on_event=hub.on_event,
            on_gap=hub.on_gap,
            on_gone=hub.on_gone,
        )

    return connect


@contextlib.asynccontextmanager
async def _running(edge: Edge) -> AsyncIterator[None]:
    await edge.broker.start()
    beside = (edge.savers, edge.retention, edge.webhooks, edge.traces)
    tasks = [asyncio.create_task(_watch(edge)), *(task for part in beside for task in part.start())]
    try:
        yield
    finally:
        edge.hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await edge.broker.close()


async def _watch(edge: Edge) -> None:
    """Subscribe to events, again until the broker answers; the client subscribes anew by itself when the broker comes back."""
    while True:
        try:
            await edge.broker.watch(steps=False)
        except BrokerError as error:
            log.warning("no events from the broker yet", extra={"action": Action.WATCH, "reason": error.message})
            await asyncio.sleep(_WATCH_RETRY_S)
        else:
            # What happened before the watch began was not seen.
            edge.hub.on_gap()
            return


def _version() -> str:
    try:
        return metadata.version("zoetrope")
    except metadata.PackageNotFoundError:
        return "0"

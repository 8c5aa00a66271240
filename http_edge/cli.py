"""`python -m http_edge`: settings in, server on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvicorn

from broker.depot.store_check import check_edge
from broker.runtime import rlimits, signals
from broker.runtime.log_actions import Action
from broker.runtime.logs import setup_logging
from broker.runtime.settings import SettingsError, check_endpoint, load, make_socket_dir
from http_edge import listening
from http_edge.announce import announce
from http_edge.app import Edge, build_app, build_edge
from http_edge.auth import keys_cli
from http_edge.auth.keys import KeyFileError
from http_edge.background.webhook_signing import SecretsError
from http_edge.base.settings import EdgeSettings
from http_edge.http.connection import ConnectionProtocol
from http_edge.media.ssrf import SsrfGuard

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_SETTINGS = 2

#: Requests that run get this long after SIGTERM. The process manager kills after 5 s.
_GRACE_S = 2

#: How long a connection may lie idle. Proxies and client libraries keep theirs for about a minute: were it closed here first, a request
#: could meet the close on its way. Pollers that come every few seconds keep theirs, too.
_KEEP_ALIVE_S = 75

_DESCRIPTION = """\
Serve the HTTP API: the native one (/v1/jobs), LightX2V's first (/v1/local/video/generate), health and metrics. Any number of edges
may run over one broker and one home. An edge may start before the broker, and outlives its restarts. The port comes from
--port or ZOETROPE_PORT, never from PORT. SIGTERM or SIGINT ends open event streams and stops within four seconds.
`python -m http_edge keys` makes, lists and removes API keys.
Exit codes: 0 stopped; 2 an option is wrong, or the address cannot be listened on.
"""


class EdgeServer(uvicorn.Server):
    """uvicorn's server, which ends event streams before it waits for open connections, and exits 0 on a signal to stop."""

    def __init__(self, config: uvicorn.Config, edge: Edge) -> None:
        super().__init__(config)
        self._edge = edge
        self._announcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address; log when the first worker is ready."""
        self.should_exit = self.should_exit or signals.received()
        await super().startup(sockets)
        for one in sockets or ():
            log.info("listening on %s", listening.url_of(one), extra={"action": Action.LISTEN})
        if not self.should_exit:
            self._announcing = asyncio.create_task(
                announce(
                    self._edge.calls.catalogue,
                    self._edge.settings,
                    is_open=_is_open(self._edge.settings, sockets or ()),
                )
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: streams would otherwise hold their connections open through the whole grace."""
        if self._announcing is not None:
            self._announcing.cancel()
        self._edge.hub.close()
        await super().shutdown(sockets)


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Serve until a signal, or run the command `keys`; returns the exit code."""
    if argv[:1] == ["keys"]:
        return keys_cli.main(argv[1:], environ)
    try:
        settings = load(EdgeSettings, "python -m http_edge", "edge", argv, environ, _DESCRIPTION)
        setup_logging(settings.log_level, "edge", log_format=settings.log_format)
        check_endpoint("front", settings.front_endpoint)
        _check_fetch_allow(settings)
        make_socket_dir("front", settings.front, settings.front_endpoint)
        check_edge(settings)
        edge = build_edge(settings, Path.cwd())
        edge.webhooks.secrets.keys()
        sockets = listening.bind(settings.host, settings.port)
    except (SettingsError, KeyFileError, SecretsError) as error:
        print(f"http_edge: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    _warn_if_open(settings, sockets)
    return _serve(settings, edge, sockets)


def _check_fetch_allow(settings: EdgeSettings) -> None:
    try:
        SsrfGuard(settings.fetch_allow)
    except ValueError as error:
        raise SettingsError(f"fetch_allow: {error}") from None


def _is_open(settings: EdgeSettings, sockets: Sequence[socket.socket]) -> bool:
    """Whether other machines can reach the port, and no key is required."""
    return settings.keys_path is None and any(map(listening.is_open, sockets))


def _warn_if_open(settings: EdgeSettings, sockets: list[socket.socket]) -> None:
    if _is_open(settings, sockets):
        log.warning(
            "the port is open to other machines, and no API key is required: set keys_file, or host = 127.0.0.1 for this machine alone",
            extra={"action": Action.LISTEN, "host": settings.host, "port": sockets[0].getsockname()[1]},
        )


def _serve(settings: EdgeSettings, edge: Edge, sockets: list[socket.socket]) -> int:
    rlimits.allow_many()
    config = uvicorn.Config(
        build_app(edge),
        loop="uvloop",
        http=ConnectionProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=settings.log_level,
        access_log=settings.access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    # uvicorn raises the signals that it obeyed once more at its end; by then that breaks nothing off.
    signals.hold()
    try:
        EdgeServer(config, edge).run(sockets=sockets)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return EXIT_OK

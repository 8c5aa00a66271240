"""An API family as one value: its paths, how it answers errors, and its routes."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from http_edge.api.common.metrics import Metrics
from http_edge.base import errors
from http_edge.body.spool import Spool
from http_edge.http.routing import EdgeRoute
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService
from http_edge.media.depot_files import DepotFiles
from http_edge.media.fetch import Fetcher
from http_edge.media.uploads import Uploads


class Parts(Struct, frozen=True, kw_only=True):
    """Dependencies of the handlers."""

    calls: JobService
    progress: Progress
    fetcher: Fetcher
    files: Uploads
    spool: Spool
    metrics: Metrics
    depot: DepotFiles
    version: str


class Family(errors.Family, frozen=True, kw_only=True):
    """An API family. `routes` makes its routes over these parts, in the order in which they are matched."""

    routes: Callable[[Parts], list[EdgeRoute]]

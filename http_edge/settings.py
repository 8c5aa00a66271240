"""Settings of the edge: one frozen struct, filled once by `cli`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from broker.wire.options import CommonSettings
from http_edge.spool import MIB, Limits


class EdgeSettings(CommonSettings, frozen=True, kw_only=True):
    """The HTTP edge."""

    host: Annotated[
        str,
        Meta(
            description="address to listen on; 0.0.0.0 is every network this machine is in, as LightX2V's server does, "
            "127.0.0.1 this machine alone"
        ),
    ] = "0.0.0.0"
    port: Annotated[int, Meta(description="port to listen on; 0 takes a free one", ge=0, le=65_535)] = 8000
    worker: Annotated[
        str,
        Meta(
            description="name of a worker (gpu-0): the LightX2V gen-1 routes of this edge become that one worker's view",
            max_length=128,
        ),
    ] = ""
    lightx2v_admission: Annotated[
        str,
        Meta(
            description="what the LightX2V gen-1 generate route does when no worker is free: refuse (Service busy) or queue",
            pattern="^(refuse|queue)$",
        ),
    ] = "refuse"
    default_model: Annotated[
        str,
        Meta(description="model of requests that name none; default: the first that suits the request", max_length=256),
    ] = ""
    model_aliases: Annotated[
        tuple[Annotated[str, Meta(pattern="^[^=]+=[^=]+$")], ...],
        Meta(
            description="further names of models, as NAME=MODEL: sora-2=demo,gpt-image-1=demo; requests may use either"
        ),
    ] = ()
    unknown_model: Annotated[
        str,
        Meta(
            description="what /v1/videos and /v1/images do with a model name that is none: serve it with the only model that can make "
            "what is asked for (refused when there are several), or refuse it",
            pattern="^(serve|refuse)$",
        ),
    ] = "serve"
    sync_timeout_s: Annotated[
        float,
        Meta(
            description="longest that a request which waits for its job (images, /v1/videos/sync) may take, seconds",
            gt=0,
            le=86_400,
        ),
    ] = 600.0
    public_url: Annotated[
        str,
        Meta(
            description="address of this service as clients see it, for links in answers (https://media.example.com); "
            "default: the one that each request names",
            pattern="^(https?://[^/?#]+)?/?$",
        ),
    ] = ""
    output_roots: Annotated[
        tuple[str, ...],
        Meta(
            description="directories in which clients may name files to save to; default: the start directory and <home>/artefacts"
        ),
    ] = ()
    input_roots: Annotated[
        tuple[str, ...],
        Meta(
            description="directories from which clients may name image files; default: the start directory and the output roots"
        ),
    ] = ()
    max_upload_mb: Annotated[
        int, Meta(description="largest request body, uploaded files included, MiB", ge=1, le=1_000_000)
    ] = 512
    upload_idle_s: Annotated[
        float, Meta(description="longest silence of a client that sends a body, seconds", gt=0, le=3600)
    ] = 30.0
    upload_timeout_s: Annotated[
        float, Meta(description="longest time that a body may take to arrive, seconds", gt=0, le=86_400)
    ] = 600.0
    fetch_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="hosts, addresses and networks from which images are fetched although they are not on the public internet,"
            " on any port: files.lan,10.1.0.0/16"
        ),
    ] = ()
    broker_timeout_s: Annotated[
        float, Meta(description="how long the broker may take to answer, seconds", gt=0, le=120)
    ] = 10.0
    keep_alive_s: Annotated[
        float, Meta(description="longest silence in an event stream before a keep-alive comment, seconds", gt=0, le=15)
    ] = 10.0
    access_log: Annotated[bool, Meta(description="log a line for every request")] = False

    @property
    def aliases(self) -> dict[str, str]:
        """Further name of a model -> its own."""
        pairs = (entry.partition("=") for entry in self.model_aliases)
        return {name.strip(): model.strip() for name, _, model in pairs}

    @property
    def upload_limits(self) -> Limits:
        """What one request may bring."""
        return Limits(request_bytes=self.max_upload_mb * MIB, idle_s=self.upload_idle_s, total_s=self.upload_timeout_s)

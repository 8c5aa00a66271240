"""Settings of the edge: one frozen struct, filled once by `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from broker.runtime.settings import EDGE_PORT, CommonSettings
from http_edge.base.limits import MIB, Limits


class EdgeSettings(CommonSettings, frozen=True, kw_only=True):
    """The HTTP edge."""

    host: Annotated[
        str,
        Meta(
            description="address to listen on: 0.0.0.0 for every network of this machine, as LightX2V's server does; :: or * for IPv6, too;"
            " 127.0.0.1 for this machine alone"
        ),
    ] = "0.0.0.0"
    port: Annotated[int, Meta(description="port to listen on; 0 takes a free one", ge=0, le=65_535)] = EDGE_PORT
    worker: Annotated[
        str,
        Meta(
            description="name of a worker (gpu-0): the LightX2V routes of this edge show and use that worker alone",
            max_length=128,
        ),
    ] = ""
    lightx2v_admission: Annotated[
        str,
        Meta(
            description="what LightX2V's first generate route does while no worker is free: refuse (Service busy) or queue",
            pattern="^(refuse|queue)$",
        ),
    ] = "refuse"
    default_model: Annotated[
        str,
        Meta(
            description="model of requests that name none; default: the first that can serve the request",
            max_length=256,
        ),
    ] = ""
    model_aliases: Annotated[
        tuple[Annotated[str, Meta(pattern="^[^=]+=[^=]+$", extra={"rule": "NAME=MODEL"})], ...],
        Meta(
            description="further names of models, as NAME=MODEL: sora-2=demo,gpt-image-1=demo; requests may use either"
        ),
    ] = ()
    unknown_model: Annotated[
        str,
        Meta(
            description="how /v1/videos and /v1/images treat a name that is no model here: serve (with the only model that can draw the "
            "request; refused when there are several) or refuse",
            pattern="^(serve|refuse)$",
        ),
    ] = "serve"
    sync_timeout_s: Annotated[
        float,
        Meta(
            description="longest wait of a request that is answered with its result (images, /v1/videos/sync), seconds",
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
            extra={"rule": "http:// or https:// with a host, without a path"},
        ),
    ] = ""
    output_roots: Annotated[
        tuple[str, ...],
        Meta(
            description="directories in which clients may name files to save to; default: the start directory and <home>/artefacts"
        ),
    ] = ()
    save_overwrites: Annotated[
        bool,
        Meta(
            description="true: a path to save to may name a file that this service did not write, which is replaced, as by LightX2V's"
            " server; false: such a request is refused"
        ),
    ] = False
    recipe: Annotated[
        bool,
        Meta(
            description="true: files of results hold their recipe (prompt, seed, model, …), so that they can be drawn again, unless the"
            " request turns it off; false: none does"
        ),
    ] = True
    trusted_signers: Annotated[
        str,
        Meta(
            description="PEM file of the authorities whose certificates POST /v1/credentials trusts; default: none, and an unchanged file"
            " is `untrusted`"
        ),
    ] = ""
    input_roots: Annotated[
        tuple[str, ...],
        Meta(
            description="directories in which clients may name input files; default: the start directory and the output roots. With"
            " keys_file, files below home cannot be named, as they belong to all tenants"
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
    upload_min_kb_s: Annotated[
        float,
        Meta(
            description="least average rate of a body once it has taken 30 s, KiB a second; one below 64 KiB a second is ended earlier when"
            " all places for uploads are taken",
            gt=0,
            le=1_000_000,
        ),
    ] = 8.0
    retention_s: Annotated[
        float,
        Meta(
            description="how long finished jobs are kept, records and files, seconds; 0: for ever. Inputs are deleted when no job has used"
            " them for twice as long",
            ge=0,
            le=1e9,
        ),
    ] = 7 * 86_400.0
    disk_quota_mb: Annotated[
        int,
        Meta(
            description="space for artefacts and uploads on this disk, MiB: beyond it the jobs that finished first are deleted, unless"
            " they are pinned or being downloaded; 0: no limit",
            ge=0,
        ),
    ] = 0
    result_cache_mb: Annotated[
        int,
        Meta(description="size of the cache of results from results_store on this machine, MB", ge=1, le=2**30),
    ] = 10_000
    results_redirect: Annotated[
        bool,
        Meta(
            description="true: redirect downloads of results to results_store itself, by an address that is valid for ten minutes; ETag,"
            " ranges and errors are then the store's"
        ),
    ] = False
    fetch_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="hosts, addresses and networks that clients' URLs (images, webhooks) may lead to although they are not public,"
            " on any port: files.lan,10.1.0.0/16"
        ),
    ] = ()
    prompt_enhancer_url: Annotated[
        str,
        Meta(
            description="OpenAI-style chat endpoint that enhances prompts of requests with use_prompt_enhancer:"
            " https://api.example.com/v1/chat/completions; default: none, and such a request gets a warning",
            pattern="^(https?://[^?#]+)?$",
            extra={"rule": "http:// or https:// with a host and the path of the endpoint"},
        ),
    ] = ""
    prompt_enhancer_model: Annotated[str, Meta(description="model of the endpoint", max_length=256)] = ""
    prompt_enhancer_key_file: Annotated[
        str, Meta(description="file with the endpoint's API key, sent as a bearer token; default: none")
    ] = ""
    prompt_enhancer_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="hosts, addresses and networks that prompt_enhancer_url may lead to although they are not public, on any port:"
            " 127.0.0.1,llm.lan"
        ),
    ] = ()
    prompt_enhancer_timeout_s: Annotated[
        float, Meta(description="how long the prompt enhancer may take, seconds", gt=0, le=600)
    ] = 20.0
    prompt_enhancer_on_error: Annotated[
        str,
        Meta(
            description="when a prompt could not be enhanced: draw (the request's own, with a warning) or refuse (503)",
            pattern="^(draw|refuse)$",
        ),
    ] = "draw"
    prompt_enhancer_system_prompt: Annotated[
        str,
        Meta(
            description="instructions for the prompt enhancer; {output} is video or image; default: keep the prompt's content, add detail",
            max_length=20_000,
        ),
    ] = ""
    webhook_secrets: Annotated[
        tuple[str, ...],
        Meta(
            description="secrets that webhook deliveries are signed with, whsec_ and base64 of 24 to 64 bytes, the newest first: all"
            " sign; default: those in <home>/webhook_secret, one a line, made at the first start"
        ),
    ] = ()
    broker_timeout_s: Annotated[
        float, Meta(description="how long the broker may take to answer, seconds", gt=0, le=120)
    ] = 10.0
    keep_alive_s: Annotated[
        float, Meta(description="longest silence in an event stream before a keep-alive comment, seconds", gt=0, le=15)
    ] = 10.0
    keys_file: Annotated[
        str,
        Meta(
            description="file of API keys (python -m http_edge keys): every request needs one, except health and the API's description;"
            " default: none, and no key is required"
        ),
    ] = ""
    metrics_open: Annotated[bool, Meta(description="true: /metrics needs no API key")] = True
    cors_origins: Annotated[
        tuple[
            Annotated[
                str,
                Meta(
                    pattern=r"^(\*|https?://[^/?#*]+)$",
                    extra={"rule": "* or a site, as https://studio.example.com"},
                ),
            ],
            ...,
        ],
        Meta(
            description="origins of web pages that may use the API from a browser: https://studio.example.com,http://localhost:3000;"
            " * for every page; default: none"
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[
            Annotated[
                str, Meta(pattern=r"^(\*|(\*\.)?[A-Za-z0-9._-]{1,253})$", extra={"rule": "*, a name, or *. and a name"})
            ],
            ...,
        ],
        Meta(
            description="names by which clients reach this service: zoetrope.lan,*.example.com; * for every name. Addresses, localhost, the"
            " machine's own name and that in public_url are always allowed. A request for another name is refused (421), against DNS"
            " rebinding by web pages; with keys_file only when names are listed"
        ),
    ] = ()
    traces: Annotated[
        bool,
        Meta(
            description="true: export each finished job as an OpenTelemetry trace (needs the extra otel), to the endpoint in the usual"
            " variables, as OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    ] = False
    access_log: Annotated[bool, Meta(description="true: log a line for every request")] = False

    @property
    def aliases(self) -> dict[str, str]:
        """Further name of a model -> its own."""
        pairs = (entry.partition("=") for entry in self.model_aliases)
        return {name.strip(): model.strip() for name, _, model in pairs}

    @property
    def keys_path(self) -> Path | None:
        """The file of API keys; None when none are required."""
        return Path(self.keys_file).expanduser().absolute() if self.keys_file else None

    @property
    def webhook_secret_path(self) -> Path:
        return self.home_path / "webhook_secret"

    @property
    def upload_limits(self) -> Limits:
        """Limits of one request's body."""
        return Limits(
            request_bytes=self.max_upload_mb * MIB,
            idle_s=self.upload_idle_s,
            total_s=self.upload_timeout_s,
            min_bytes_per_s=self.upload_min_kb_s * 1024,
        )

"""The broker's options: written once here; flags, environment variables, file keys and help follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from broker.core.policy import Policy
from broker.runtime.curve_keys import is_tcp, listening_key
from broker.runtime.settings import CommonSettings, SettingsError, check_endpoint


class BrokerSettings(CommonSettings, frozen=True, kw_only=True):
    """Options of `python -m broker`."""

    queue_limit: Annotated[
        int, Meta(description="jobs waiting beyond which new ones are refused (HTTP 429)", ge=1, le=10_000_000)
    ] = 100_000
    queue_limit_s: Annotated[
        float, Meta(description="predicted GPU-seconds waiting beyond which new jobs are refused; 0: no limit", ge=0)
    ] = 0.0
    heartbeat_s: Annotated[float, Meta(description="how often a worker reports, seconds", ge=0.05, le=60)] = 1.0
    suspect_after_s: Annotated[
        float, Meta(description="silence after which a worker gets no new job, seconds", gt=0, le=3600)
    ] = 2.5
    lost_after_s: Annotated[
        float, Meta(description="silence after which a worker's jobs go back to the queue, seconds", gt=0, le=3600)
    ] = 6.0
    rejoin_s: Annotated[
        float,
        Meta(
            description="after a restart: how long jobs that were running wait for their workers, seconds",
            ge=0,
            le=3600,
        ),
    ] = 3.0
    max_crashes: Annotated[
        int, Meta(description="attempts that may take the engine down before a job is given up", ge=1, le=100)
    ] = 3
    max_losses: Annotated[
        int, Meta(description="workers that may be lost under a job before it is given up", ge=0, le=1000)
    ] = 10
    bench_after: Annotated[
        int,
        Meta(
            description="different jobs that may fail on a worker in a row before it gets no more; 0: never",
            ge=0,
            le=1000,
        ),
    ] = 3
    bench_s: Annotated[
        float,
        Meta(description="for how long, seconds; twice as long each time until a job succeeds there", gt=0, le=86_400),
    ] = 60.0
    reload_s: Annotated[
        float, Meta(description="assumed time to load a model until one has been seen to load, seconds", ge=0, le=3600)
    ] = 15.0
    recent_finals: Annotated[
        int, Meta(description="finished jobs kept in memory; older ones are read from the journal", ge=0, le=1_000_000)
    ] = 512
    min_free_mb: Annotated[
        int, Meta(description="free space under home, MB, below which new jobs are refused", ge=0)
    ] = 256
    reserve_mb: Annotated[
        int,
        Meta(description="size of <home>/ballast, MB: room for results that is given up when the disk is full", ge=0),
    ] = 32
    front_tcp: Annotated[
        str,
        Meta(
            description="tcp endpoint for edges on other machines, besides front: tcp://10.0.0.1:7001; needs CURVE keys (python -m broker"
            " keys); default: none"
        ),
    ] = ""
    back_tcp: Annotated[
        str,
        Meta(
            description="tcp endpoint for workers on other machines, besides back: tcp://10.0.0.1:7002; needs CURVE keys (python -m broker"
            " keys); default: none"
        ),
    ] = ""
    accept_journal_loss: Annotated[
        bool,
        Meta(description="start although the journal is shorter than it was, without the jobs that are gone from it"),
    ] = False
    check_invariants: Annotated[
        bool,
        Meta(
            description="check every rule of the core before each commit: slow with many jobs, for finding a fault; the last messages"
            " before a broken one are written to <home>/stimuli-*.msgpack, without specs and webhook addresses"
        ),
    ] = False
    metrics_file: Annotated[
        str, Meta(description="file that gets the broker's numbers in Prometheus' text format every 5 s")
    ] = ""

    @property
    def journal_path(self) -> Path:
        return self.home_path / "jobs.sqlite"

    @property
    def endpoints(self) -> dict[str, str]:
        """Option -> endpoint that it has the broker listen on."""
        named = {"front": self.front_endpoint, "back": self.back_endpoint}
        named |= {"front_tcp": self.front_tcp, "back_tcp": self.back_tcp}
        return {name: endpoint for name, endpoint in named.items() if endpoint}

    @property
    def policy(self) -> Policy:
        """The part of the options that the core decides by."""
        return Policy(
            queue_limit=self.queue_limit,
            queue_limit_s=self.queue_limit_s,
            heartbeat_s=self.heartbeat_s,
            suspect_after_s=self.suspect_after_s,
            lost_after_s=self.lost_after_s,
            rejoin_s=self.rejoin_s,
            max_crashes=self.max_crashes,
            max_losses=self.max_losses,
            bench_after=self.bench_after,
            bench_s=self.bench_s,
            reload_s=self.reload_s,
            recent_finals=self.recent_finals,
        )


def check(settings: BrokerSettings) -> None:
    """Rules between options. Raises `SettingsError`."""
    endpoints = settings.endpoints
    for name, endpoint in endpoints.items():
        check_endpoint(name, endpoint)
        if name.endswith("_tcp") and not is_tcp(endpoint):
            raise SettingsError(f"{name}: {endpoint!r} must be tcp://ADDRESS:PORT")
        if is_tcp(endpoint):
            listening_key(settings, name, endpoint)
    names = list(endpoints)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            if endpoints[name] == endpoints[other]:
                raise SettingsError(f"{name} and {other} are both {endpoints[name]!r}; they must differ")
    if not settings.heartbeat_s < settings.suspect_after_s < settings.lost_after_s:
        raise SettingsError(
            f"heartbeat_s ({settings.heartbeat_s:g}) < suspect_after_s ({settings.suspect_after_s:g})"
            f" < lost_after_s ({settings.lost_after_s:g}) must hold"
        )

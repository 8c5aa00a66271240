"""The broker's options, those of its core in `core.policy`; flags, environment variables, file keys and help follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from broker.core.policy import Policy
from broker.runtime.curve_keys import is_tcp, listening_key
from broker.runtime.settings import CommonSettings, SettingsError, check_endpoint


class BrokerSettings(CommonSettings, frozen=True, kw_only=True):
    """Options of `python -m broker`."""

    policy: Policy = Policy()
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
    usage_keep_days: Annotated[
        int,
        Meta(description="days for which GET /v1/usage has what was used; 0: for ever", ge=0, le=100_000),
    ] = 730
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
    policy = settings.policy
    if not policy.heartbeat_s < policy.suspect_after_s < policy.lost_after_s:
        raise SettingsError(
            f"heartbeat_s ({policy.heartbeat_s:g}) < suspect_after_s ({policy.suspect_after_s:g})"
            f" < lost_after_s ({policy.lost_after_s:g}) must hold"
        )

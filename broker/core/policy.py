"""The numbers the core decides by. Those with a description are options of the broker, see `broker.settings`; the others are constants."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.core.scheduling.preemption import Bounds


class Policy(Struct, frozen=True, kw_only=True):
    """Limits, and times in seconds."""

    queue_limit: Annotated[
        int, Meta(description="jobs waiting beyond which new ones are refused (HTTP 429)", ge=1, le=10_000_000)
    ] = 100_000
    queue_limit_s: Annotated[
        float,
        Meta(
            description="predicted seconds of work waiting, on a worker, beyond which new jobs are refused; 0: no limit",
            ge=0,
        ),
    ] = 0.0
    heartbeat_s: Annotated[float, Meta(description="how often a worker reports, seconds", ge=0.05, le=60)] = 1.0
    suspect_after_s: Annotated[
        float, Meta(description="silence after which a worker gets no new job, seconds", gt=0, le=3600)
    ] = 2.5
    #: The lease of a worker, and of the jobs that it holds.
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
    breaker_failures: Annotated[
        int,
        Meta(
            description="different jobs that may fail on a worker in a row before it gets no more; 0: never",
            ge=0,
            le=1000,
        ),
    ] = 3
    breaker_s: Annotated[
        float,
        Meta(
            description="for how long, seconds (a circuit breaker); twice as long each time until a job succeeds there",
            gt=0,
            le=86_400,
        ),
    ] = 60.0
    reload_s: Annotated[
        float, Meta(description="assumed time to load a model until one has been seen to load, seconds", ge=0, le=3600)
    ] = 15.0
    draft_expires_s: Annotated[
        float,
        Meta(description="how long a draft waits to be committed before its job fails as expired, seconds", gt=0),
    ] = 3600.0
    preempt: Annotated[
        bool,
        Meta(
            description="let running jobs with much left, of models that resume, make room for promised jobs that would be late, and for"
            " short ones that would wait long"
        ),
    ] = False
    preempt_delay: Annotated[
        float,
        Meta(
            description="a job makes room only where that delays it by no more than this in all, as a share of its own time: more of it"
            " helps the short jobs of a busier pool, less of it the long ones",
            ge=0.0,
            le=10.0,
        ),
    ] = 1.0
    #: What else preemption is decided by.
    preempt_bounds: Bounds = Bounds()
    on_demand_models: Annotated[
        tuple[str, ...],
        Meta(
            description="models of which jobs are taken while no worker has them, once one had, as a launcher brings a worker when jobs"
            " wait; separated by commas, * for all"
        ),
    ] = ()
    recent_finals: Annotated[
        int, Meta(description="finished jobs kept in memory; older ones are read from the journal", ge=0, le=1_000_000)
    ] = 512
    #: A lost worker stays listed for this long.
    forget_worker_s: float = 300.0
    #: Live jobs whose specs stay in memory, in number and bytes; those of later jobs are read from the journal when they start.
    live_bodies: int = 10_000
    live_body_bytes: int = 64 * 1024 * 1024
    #: Bytes of the specs of finished jobs kept in memory.
    recent_final_bytes: int = 16 * 1024 * 1024

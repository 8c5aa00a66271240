"""The numbers the core decides by; filled from the broker's settings."""

from __future__ import annotations

from msgspec import Struct


class Policy(Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    #: Jobs waiting, and predicted GPU-seconds of them (0: no limit), beyond which submits are refused.
    queue_limit: int = 100_000
    queue_limit_s: float = 0.0
    heartbeat_s: float = 1.0
    #: Silence after which a worker gets no new work, and after which its jobs go back to the queue.
    suspect_after_s: float = 2.5
    lost_after_s: float = 6.0
    #: After a restart: how long jobs that were running wait for their workers to come back.
    rejoin_s: float = 3.0
    #: A lost worker stays listed for this long.
    forget_worker_s: float = 300.0
    #: Attempts that may end the engine, and workers that may be lost under a job, before it is quarantined.
    max_crashes: int = 3
    max_losses: int = 10
    #: Assumed time to load a model until one has been seen to load.
    reload_s: float = 15.0
    #: Different jobs that may fail on a worker in a row before it is benched (0: never), and for how long at first.
    bench_after: int = 3
    bench_s: float = 60.0
    #: Live jobs whose specs stay in memory, in number and bytes; those of later jobs are read from the journal when they start.
    live_bodies: int = 10_000
    live_body_bytes: int = 64 * 1024 * 1024
    #: Final jobs kept in memory (more are read back from the journal), in number and in bytes of their specs.
    recent_finals: int = 512
    recent_final_bytes: int = 16 * 1024 * 1024

"""The numbers an agent decides by; filled from the workers' settings."""

from __future__ import annotations

from msgspec import Struct


class AgentPolicy(Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    #: Until the broker's `Welcome` sets it.
    heartbeat_s: float = 1.0
    #: Least time between two heartbeats, however much changes.
    beat_gap_s: float = 0.25
    #: Between two sendings of a result that has no acknowledgement, and of a `Hello` that has no `Welcome`.
    resend_s: float = 1.0
    #: A running job is given up after this long without a message from the broker.
    detached_s: float = 900.0
    #: A cancel may take two predicted steps and this much, and never longer than the most; then the engine is killed. A cancel is obeyed
    #: inside a step, between the blocks of the model, so that even steps of minutes need no more.
    cancel_grace_s: float = 2.0
    cancel_grace_max_s: float = 30.0
    #: Silence (no step, no sign of life from inside a step) after which a phase counts as stuck.
    load_budget_s: float = 1800.0
    encode_budget_s: float = 300.0
    decode_budget_s: float = 600.0
    save_budget_s: float = 600.0
    #: The same within denoising: at least this, or five predicted steps, and no more than the most; before the first step, at least
    #: `first_step_budget_s`.
    step_floor_s: float = 30.0
    step_budget_max_s: float = 3600.0
    first_step_budget_s: float = 300.0
    #: An engine that closed its socket or reported its end has this long to do so.
    exit_s: float = 5.0
    #: A killed process that is still there after this long sits in the kernel: its job is given up, its worker takes no more.
    unkillable_s: float = 30.0
    #: When drained or dismissed: how long to wait for the killed engine.
    leave_s: float = 1.5
    #: After a signal to stop: how long a running job may go on before it is handed back.
    stop_grace_s: float = 3.0
    #: An engine that was ready for this long, or finished a job, is healthy: its next death is the first of a new count.
    good_life_s: float = 60.0
    #: How often a worker whose name another process bears checks whether it is free.
    name_taken_s: float = 30.0
    #: Results awaiting acknowledgement, beyond which no new job is taken.
    max_unacknowledged: int = 16
    #: Bytes of results that wait to be put into the depot, beyond which no new job is taken.
    spool_bytes: float = 10e9
    #: How long it is tried to put an attempt's files into the depot before it fails, and to fetch its inputs before it is handed back.
    put_budget_s: float = 3600.0
    fetch_budget_s: float = 600.0
    #: How often the newest checkpoints of a running job are put into the depot; 0: never.
    checkpoint_put_s: float = 60.0
    #: How long a parked attempt waits at most until its checkpoints are in the depot before it is handed back.
    park_put_s: float = 30.0
    #: Whether an engine process with its imports done waits to take the place of one that ends.
    spare_engine: bool = False

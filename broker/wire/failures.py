"""Classes of failures: one member each, with all that follows from it. A new class is a member here and the code that reports it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

#: What has to change before a job can succeed: its input, the time it is given, the service.
Fault = Literal["input", "time", "service"]


class Rules(Struct, frozen=True, kw_only=True):
    """Consequences of a class of failures."""

    #: `never`: it would fail the same way. `offload`: once more, with the profile that trades speed for memory. `elsewhere`: again, on
    #: another worker first; once, where it is no crash.
    retry: Literal["never", "offload", "elsewhere"] = "never"
    #: It ended the engine, or could have: so many of these quarantine the job.
    crash: bool = False
    #: One job after another that fails so is held against the worker.
    blames_worker: bool = True
    #: Decides the answer to a request that waited for the job.
    fault: Fault = "service"
    #: The cause in the job's history when it ends so.
    cause: Literal["failed", "expired", "quarantined"] = "failed"


class FailureKind(StrEnum):
    """The class of a failed attempt or job; the values are those on the wire, in the journal and in answers."""

    rules: Rules
    #: For the table in docs/api.md.
    about: str

    def __new__(cls, name: str, rules: Rules = Rules(), about: str = "") -> FailureKind:  # noqa: B008 - frozen
        member = str.__new__(cls, name)
        member._value_ = name
        member.rules, member.about = rules, about
        return member

    # It fails on every worker, so it is held against none.
    INVALID_INPUT = (
        "invalid_input",
        Rules(blames_worker=False, fault="input"),
        "the pipeline does not take these values",
    )
    # A job that keeps running engines over is as dangerous as one that crashes them.
    OUT_OF_MEMORY = "out_of_memory", Rules(retry="offload", crash=True), "the memory did not suffice"
    ENGINE_ERROR = "engine_error", Rules(retry="elsewhere"), "the pipeline raised an exception"
    ENGINE_CRASHED = (
        "engine_crashed",
        Rules(retry="elsewhere", crash=True),
        "the engine's process ended, or only a new one can use the device",
    )
    HUNG = "hung", Rules(retry="elsewhere", crash=True), "no sign of life for longer than the phase's budget"
    # The broker ends these two, workers never report them.
    EXPIRED = (
        "expired",
        Rules(blames_worker=False, fault="time", cause="expired"),
        "the deadline passed before the job was done, or its draft was not committed in time",
    )
    QUARANTINED = (
        "quarantined",
        Rules(blames_worker=False, cause="quarantined"),
        "too many attempts ended the engine, too many workers were lost under it, or its operator gave it up",
    )

"""Errors of an engine. One base; a class's docstring is its default message, its `kind` is what the agent reports.

The first two are the client's or the operator's to mend, the rest are ours. Errors of torch are none of these:
`failures.classify` sorts them.
"""

from __future__ import annotations

from typing import ClassVar

from broker.runtime.described_error import DescribedError
from broker.wire.failures import FailureKind


class EngineError(DescribedError):
    """The engine could not draw this."""

    kind: ClassVar[FailureKind] = FailureKind.ENGINE_ERROR
    #: Whether the process must not be trusted any more.
    fatal: ClassVar[bool] = False

    #: Whether it was raised in another rank of the group, which reports it.
    elsewhere: bool = False


class InvalidInput(EngineError):
    """The job requests what this pipeline cannot draw."""

    kind = FailureKind.INVALID_INPUT


class LoadError(EngineError):
    """The model cannot be loaded."""


class OutOfMemory(EngineError):
    """Not enough memory for this job."""

    kind = FailureKind.OUT_OF_MEMORY


class WriteError(EngineError):
    """The file could not be written."""


class DeviceLost(EngineError):
    """The device's state is corrupt; only a new process can use it."""

    kind = FailureKind.ENGINE_CRASHED
    fatal = True

"""Errors of the broker's client. One base; a class's docstring is its default message."""

from __future__ import annotations

from broker.runtime.described_error import DescribedError


class BrokerError(DescribedError):
    """The broker could not do this."""

    @property
    def message(self) -> str:
        return str(self.args[0])


class BrokerUnavailable(BrokerError):
    """The broker does not answer."""


class SubmitRejected(BrokerError):
    """The broker did not take the job.

    `code` is the wire's `RejectCode`; `retry_after_s` is 0 when retrying will not help; `earliest_s`: what could be promised, 0: nothing.
    """

    def __init__(self, code: str, message: str, retry_after_s: float = 0.0, earliest_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self.earliest_s = earliest_s


class QueueFull(SubmitRejected):
    """The queue is full."""


class ServiceBusy(SubmitRejected):
    """No worker is free, and the job was not to wait."""


class AliasTaken(SubmitRejected):
    """A job of this name exists already."""


class IdConflict(SubmitRejected):
    """A different job bears this id already."""


class ShuttingDown(SubmitRejected):
    """The broker takes no more jobs; it is about to stop."""


REJECTIONS: dict[str, type[SubmitRejected]] = {
    "queue_full": QueueFull,
    "busy": ServiceBusy,
    "alias_taken": AliasTaken,
    "id_conflict": IdConflict,
    "shutting_down": ShuttingDown,
}


def rejection(code: str, message: str, retry_after_s: float, earliest_s: float = 0.0) -> SubmitRejected:
    """The error for a `Rejected` message."""
    return REJECTIONS.get(code, SubmitRejected)(code, message, retry_after_s, earliest_s)

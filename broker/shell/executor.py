"""Carries out the core's effects as far as the commit: rows and deliveries are staged, messages are kept until they may go."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from broker.core.deliveries import Delivery
from broker.core.effects import DeliveryChanged, Effect, Marked, RecordDeleted, Send, SendRun, Transition, WorkerNoted
from broker.runtime.log_actions import Action
from broker.shell.journal.journal import Journal
from broker.shell.lookups import with_spec
from broker.shell.metrics import Metrics

logger = logging.getLogger(__name__)


class Executor:
    """Effects of a pass; at its end the router commits, if something is `durable`, and sends."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        #: Messages that wait for the commit, and those that need not.
        self.sends: list[Send] = []
        self.early: list[Send] = []
        #: Something is staged that must be on disk before `sends` go.
        self.durable = False
        #: Transitions of jobs, and of their webhook deliveries, are logged.
        self.log_transitions = True

    @property
    def idle(self) -> bool:
        """Whether there is nothing to commit and nothing to send."""
        return not (self.durable or self.sends or self.early)

    def clear(self) -> None:
        """Drop the messages; what is staged need not be committed."""
        self.sends, self.early, self.durable = [], [], False

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Take up effects, in their order. Raises as the journal does, and `DamagedRecord`."""
        for effect in effects:  # the two of every job here, without a call between
            if type(effect) is Send:
                (self.early if effect.early else self.sends).append(effect)
            elif type(effect) is Transition:
                if effect.durable:
                    self.durable = True
                self._journal.stage(effect.job, lazy=not effect.durable)
                self._metrics.transitions[effect.target, effect.cause] += 1
                if effect.via is not None:
                    self._metrics.transitions[effect.via] += 1
                if self.log_transitions:
                    _log_transition(effect)
            else:
                self._carry_out_rare(effect)

    def _carry_out_rare(self, effect: Effect) -> None:
        match effect:
            case SendRun():
                send = Send(effect.peer, with_spec(self._journal, effect.message))
                (self.early if effect.early else self.sends).append(send)
            case RecordDeleted():
                self._journal.forget(effect.job_id)
                self.durable = True
                logger.info("job record deleted", extra={"action": Action.RECORD_DELETED, "job_id": effect.job_id})
            case Marked():
                self._journal.mark(effect.job, effect.mark)
                self.durable = True
                _log_mark(effect)
            case DeliveryChanged():
                self._journal.deliveries.stage(effect.delivery)
                self.durable = True
                if self.log_transitions:
                    _log_delivery(effect.delivery)
            case WorkerNoted():
                self._metrics.notes[effect.action] += 1
                extra = {"action": Action(effect.action), "worker_id": effect.worker, "detail": effect.text}
                logger.warning("worker", extra=extra)


def _log_transition(transition: Transition) -> None:
    for step in transition.steps():
        logger.info(
            "job moved",
            extra={
                "action": Action.TRANSITION,
                "job_id": transition.job_id,
                "attempt": transition.attempt,
                "worker_id": step.worker,
                "source": step.source,
                "target": step.target,
                "cause": step.cause,
                "note": step.note,
            },
        )


def _log_delivery(delivery: Delivery) -> None:
    logger.info(
        "webhook delivery",
        extra={
            "action": Action.DELIVERY,
            "job_id": delivery.job_id,
            "event": delivery.event,
            "state": delivery.state,
            "attempt": delivery.attempts,
            "status": delivery.status or None,
            "note": delivery.note,
        },
    )


def _log_mark(effect: Marked) -> None:
    what = "job released, failed or deleted" if effect.mark is None else "cancel of a job that is set aside"
    action = Action.SETTLED if effect.mark is None else Action.CANCEL_NOTED
    logger.warning(what, extra={"action": action, "job_id": effect.job.id})

"""Models of which jobs are taken while no worker has them, as a launcher that ends its last worker brings one when a job waits.

A model is known once a worker had it, with the card and the class of the last worker that did; it is kept over restarts by the shell.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.pool import Worker
from broker.wire.messages import OnDemandModel, WorkerInfo

#: In place of names: every model that any worker had.
ALL = "*"


class OnDemand:
    """Cards and classes of the models of these names, as far as they are known."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        #: By name; for reading.
        self.known: dict[str, OnDemandModel] = {}
        #: Grows with each change of `known`.
        self.revision = 0

    def covers(self, model: str) -> bool:
        """Whether jobs are taken for this model while no worker has it."""
        return model in self._names or ALL in self._names

    def register(self, info: WorkerInfo) -> None:
        """Note the models of a worker that registers."""
        if not self._names:
            return
        for card in info.models:
            model = OnDemandModel(card=card, device=info.device, size=info.gpus)
            if self.covers(card.name) and self.known.get(card.name) != model:
                self.known[card.name] = model
                self.revision += 1

    def restore(self, models: Iterable[OnDemandModel]) -> None:
        """Restore what was known of the models that are still configured."""
        self.known = {model.card.name: model for model in models if self.covers(model.card.name)}

    def missing(self, workers: Iterable[Worker]) -> tuple[OnDemandModel, ...]:
        """Those that no worker has now, by name."""
        if not self.known:
            return ()
        there = frozenset[str]().union(*(worker.models for worker in workers if not worker.lost))
        return tuple(model for name, model in sorted(self.known.items()) if name not in there)

"""Catalogue of models: the cards that workers bring, read from the broker's view of the pool and kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType

from broker.wire.jobspec import ModelCard
from broker.wire.messages import PoolView
from http_edge.base.errors import EdgeError, shown

#: How old a view of the pool may be for choosing a model; an unknown model's name is looked up anew before it is refused.
_FRESH_S = 1.0

#: Reads of thousands of workers may take this share of the time, unless the view would be older than this.
_MOST_LOOKING, _OLDEST_S = 0.05, 5.0

#: Key of models without a worker, in place of a worker's name.
_ON_DEMAND = ""

#: Names listed when an unknown model is refused.
_NAMED = 20


class Catalogue:
    """The pool, cached, and the cards in it."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[PoolView]],
        clock: Callable[[], float] = time.monotonic,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        #: Further names of models -> their own.
        self.aliases = aliases
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._pool: PoolView | None = None
        self._pool_at = float("-inf")
        #: Worker -> its cards, the last time any worker had some. A pool that is restarting still has its models. "": those of which jobs
        #: are taken without a worker.
        self._last_cards: dict[str, tuple[ModelCard, ...]] = {}
        #: Seconds that the last look took.
        self._took_s = 0.0
        #: What `cards` has answered since: there may be thousands of workers, and it is requested every job.
        self._cards: dict[str, list[ModelCard]] = {}

    async def pool(self, max_age_s: float = 0.0) -> PoolView:
        """The pool as it was at most `max_age_s` ago, or, unless that is 0, so long that reads take a small share of the time.

        Raises `EdgeError` when the broker does not answer.
        """
        if max_age_s:
            max_age_s = max(max_age_s, min(_OLDEST_S, self._took_s / _MOST_LOOKING))
        if self._pool is not None and self._clock() - self._pool_at <= max_age_s:
            return self._pool
        called_at = self._clock()
        async with self._lock:
            # A task that waited for the lock may use what its holder fetched, if that was fetched after this call began.
            if self._pool is None or self._pool_at < called_at:
                started_at = self._clock()
                self._pool = await self._fetch()
                self._pool_at = started_at
                self._took_s = self._clock() - started_at
                self._cards.clear()
                current = {worker.name: worker.models for worker in self._pool.workers if worker.models}
                if self._pool.on_demand:
                    current[_ON_DEMAND] = tuple(model.card for model in self._pool.on_demand)
                self._last_cards = current or self._last_cards
            return self._pool

    async def cards(self, worker: str = "", max_age_s: float = _FRESH_S) -> list[ModelCard]:
        """Return one card a model name, in the order of workers and of their own lists, those without a worker last; only this worker's
        if it is named."""
        await self.pool(max_age_s)
        if (found := self._cards.get(worker)) is not None:
            return [*found]
        cards: dict[str, ModelCard] = {}
        for name in sorted(self._last_cards, key=lambda name: (name == _ON_DEMAND, name)):
            if worker in ("", name):
                for card in self._last_cards[name]:
                    cards.setdefault(card.name, card)
        self._cards[worker] = list(cards.values())
        return [*self._cards[worker]]

    async def choose(
        self,
        model: str | None,
        *,
        label: str = "model",
        default: str = "",
        output: str | None = None,
        inputs: Collection[str] = (),
        worker: str = "",
    ) -> ModelCard:
        """The card of the model requested, or of the one that suits the request best. Raises `EdgeError`."""
        model = self.aliases.get(model or "", model)
        default = self.aliases.get(default, default)
        cards = await self.cards(worker)
        if not cards or (model and not any(card.name == model for card in cards)):
            cards = await self.cards(worker, max_age_s=0.0)
        if not cards:
            subject = f"worker {shown(worker)} has not" if worker else "no worker has"
            raise EdgeError("no_workers", f"{subject} registered yet, so no model is known", retry_after_s=5.0)
        model_name = model or default
        if model_name and (
            model or output is None or any(card.name == default and card.makes(output) for card in cards)
        ):
            card = next((card for card in cards if card.name == model_name), None)
            if card is None:
                raise unknown_model(label, model_name, cards)
            return card
        return _best(cards, output, inputs)


def unknown_model(label: str, name: str, cards: list[ModelCard]) -> EdgeError:
    """The error for a model that this service does not have."""
    names = ", ".join(card.name for card in cards[:_NAMED]) + (", ..." if len(cards) > _NAMED else "")
    message = f"{label}: {shown(name)} is not a model of this service; known: {names}"
    return EdgeError("invalid_value", message, param=label, value=name, code="model_not_found")


def suited(cards: list[ModelCard], output: str | None, inputs: Collection[str]) -> list[ModelCard]:
    """The cards that make this output with inputs of these roles; those that were made for it before those that also can."""
    if output is not None:
        cards = sorted((card for card in cards if card.makes(output)), key=lambda card: card.output != output)
    return [card for card in cards if card.suits(inputs, output or card.output)]


def _best(cards: list[ModelCard], output: str | None, inputs: Collection[str]) -> ModelCard:
    """The first card that makes this output and does with what there is; a filter that leaves none is passed over."""
    if output is not None:
        cards = suited(cards, output, inputs) or [card for card in cards if card.makes(output)] or cards
    taking = [card for card in cards if all(card.takes(role, card.output) for role in inputs)] or cards
    return next((card for card in taking if set(card.needs) <= set(inputs)), taking[0])

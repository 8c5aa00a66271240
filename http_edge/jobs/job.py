"""A job as the edge handles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import JobSpec, decode_spec
from broker.wire.messages import JobView, WebhookEvent
from broker.wire.terms import FINAL_NAMES
from http_edge.base.job_names import shown_id

#: Most answers about one job that are kept encoded.
_ENCODED = 8


def major_state(view: JobView) -> tuple[object, ...]:
    """Return the members of a view of which a change is reported with the whole job, as its history has grown, too."""
    return view.state, view.attempts, view.cancel_requested, view.parking, view.promise


class Job(Struct, frozen=True, kw_only=True):
    """A job as the edge handles it: the broker's view and the spec, decoded once."""

    view: JobView
    #: None when a newer edge wrote a spec that this one cannot read.
    spec: JobSpec | None
    #: Why the client's own path (`JobSpec.save_to`) could not be filled; "" when it was, or there is none.
    save_error: str = ""
    #: How long finished jobs are kept, seconds; 0: for ever.
    kept_s: float = 0.0
    #: Answers about it as they were sent, by what they are: they stay right, as a change makes another `Job`. About as large as the spec.
    encoded: dict[str, bytes] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, view: JobView, kept_s: float) -> Job:
        """The job of a full view."""
        try:
            return cls(view=view, spec=decode_spec(view.body), kept_s=kept_s)
        except ValueError:
            return cls(view=view, spec=None, kept_s=kept_s)

    @property
    def expires_at(self) -> float:
        """Return when record and files are deleted, Unix time; 0 when not known: the job is not over, or is kept for ever."""
        return self.view.finished_at + self.kept_s if self.kept_s and self.is_final else 0.0

    @property
    def id(self) -> str:
        """Id for its clients; `view.id` is the journal's."""
        return shown_id(self.view.id)

    @property
    def is_final(self) -> bool:
        return self.view.state in FINAL_NAMES

    def event_type(self, event: WebhookEvent) -> str:
        """The event's name for receivers of webhooks: `video.completed`."""
        return f"{self.spec.output if self.spec else 'job'}.{event}"

    def moved_to(self, view: JobView) -> Job:
        """This job in a later view; events bring neither spec nor history."""
        if not view.body:
            view = msgspec.structs.replace(view, body=self.view.body, history=view.history or self.view.history)
        return Job(view=view, spec=self.spec, kept_s=self.kept_s)

    def unsaved(self, reason: str) -> Job:
        """This job, its client's own path not filled."""
        return Job(view=self.view, spec=self.spec, save_error=reason, kept_s=self.kept_s)

    def json(self, name: str, make: Callable[[Job], Any]) -> bytes:
        """Encode the JSON that `make` builds of this job, once. `name`: key of the cached bytes."""
        return self.encoded_once(name, lambda: msgspec.json.encode(make(self)))

    def encoded_once(self, name: str, encode: Callable[[], bytes]) -> bytes:
        """Return the bytes of `encode`, made once. `name`: key of the cached bytes."""
        found = self.encoded.get(name)
        if found is None:
            found = encode()
            # Some answers differ by the address of the request; a client of many makes no copies here.
            if len(self.encoded) < _ENCODED:
                self.encoded[name] = found
        return found

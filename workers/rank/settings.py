"""The options of `python -m workers.rank`: those of a worker, of which it reads what concerns its machine, and its leader."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from workers.settings import WorkerSettings


class RankSettings(WorkerSettings, frozen=True, kw_only=True):
    """Run the ranks that a group over several machines has on this one."""

    leader: Annotated[
        str,
        Meta(
            description="rank_endpoint of the machine that leads the group: tcp://ADDRESS:PORT; with the key of that machine, worker.key in"
            " curve_dir"
        ),
    ] = ""

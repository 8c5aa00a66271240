"""One cluster for all tests: it takes seconds to begin."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

#: Of the cluster: a token is needed to speak with it, and losses are noticed soon. Ray reads its variables when it is imported.
if importlib.util.find_spec("ray") is not None:
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_enable_metrics_collection": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "3",
        "RAY_memory_monitor_refresh_ms": "0",
        # Else each command of the launcher has a process started in which nothing ever runs.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else actors, and the workers that they start, come after all that others have to do on the machine.
        "RAY_worker_niceness": "0",
    }


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A cluster with two nodes of two GPUs, and a service."""
    pytest.importorskip("ray")
    from tests.ray.stage import Stage

    made = Stage(tmp_path_factory.mktemp("ray"))
    try:
        yield made
    finally:
        made.close()

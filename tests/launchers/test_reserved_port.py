"""A port that a launcher keeps for the leader of a group."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from broker.runtime.curve_keys import read_peer_key
from tests.support.worker_key import make_worker_key
from workers.launchers.reserved_port import ReservedPort
from workers.machines.sockets import LeaderSocket


def test_the_leader_listens_at_its_reserved_port_again_and_again_and_no_other_process_does(tmp_path: Path) -> None:
    make_worker_key(tmp_path / "curve")
    key = read_peer_key(tmp_path / "curve/worker.key", "worker")
    reserved = ReservedPort("127.0.0.1")
    for _ in range(2):
        with socket.socket() as other, pytest.raises(OSError) as refused:
            other.bind(("127.0.0.1", int(reserved.endpoint.rpartition(":")[2])))
        assert refused.value.errno == errno.EADDRINUSE
        LeaderSocket(reserved.endpoint, key).close()
    reserved.close()

"""A key as all machines of a group have it."""

from __future__ import annotations

from pathlib import Path

import zmq


def make_worker_key(directory: Path) -> Path:
    """Write the key of a worker into a new directory of mode 0700; its file."""
    directory.mkdir(mode=0o700)
    public, secret = (part.decode() for part in zmq.curve_keypair())
    path = directory / "worker.key"
    path.write_text(f'name = "pair"\nrole = "worker"\npublic = "{public}"\nsecret = "{secret}"\nbroker = "{public}"\n')
    path.chmod(0o600)
    return path

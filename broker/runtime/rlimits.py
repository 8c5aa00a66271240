"""Limit of the connections that a process may hold."""

from __future__ import annotations

import contextlib
import resource


def allow_many() -> None:
    """Raise the limit of open files to the system's hard limit.

    Every peer and client holds a descriptor, strangers too for as long as a handshake or a request's head may take; the usual limit,
    1024, is for programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

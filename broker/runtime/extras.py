"""The extra `serve`: what a machine that runs the service needs beside what its clients need. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: What is always here; without a module of these, something else is wrong.
_OWN = frozenset({"broker", "workers", "http_edge", "bench", "zoetrope"})

EXIT_NOT_INSTALLED = 2


def lacking(module: str) -> str:
    """One sentence on a module that is not installed, and the cure."""
    return f"{module} is not installed: install what the service needs with pip install 'zoetrope[serve]' (in a checkout: make setup)"


@contextmanager
def needed(program: str) -> Iterator[None]:
    """Import a program's modules in this block: one that is not installed ends the process with a sentence and code 2."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if not module or module in _OWN:
            raise
        sys.stderr.write(f"{program}: {lacking(module)}\n")
        sys.exit(EXIT_NOT_INSTALLED)

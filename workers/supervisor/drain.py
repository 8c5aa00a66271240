"""`python -m workers drain NAME`: has the service let a worker finish what it holds and leave, and shows how far it is.

It uses HTTP as any client does, so that it runs on any machine that reaches the service, with the key that the service requires of
everybody else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence

from zoetrope.client.client import Client
from zoetrope.client.errors import ZoetropeError
from zoetrope.client.results import Worker
from zoetrope.client.retries import RetryPolicy

#: Seconds between two polls.
_LOOK_S = 0.5
#: Polls in a row that may fail (the service restarts) before waiting ends.
_MAX_FAILED_POLLS = 60

EXIT_REFUSED = 1

_DESCRIPTION = """\
Let a worker take no more jobs, finish the one it has, and leave; then wait until it has left. A supervisor whose workers have all left
ends with code 0 (under honcho, that stops broker and edge as well). Exit codes: 0 the worker has left (or, with --no-wait, has been
asked to); 1 there is no such worker, or the service cannot be asked; 2 an option is wrong.
"""


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Drain the worker named in `argv`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers drain", description=_DESCRIPTION)
    parser.add_argument("name", metavar="NAME", help="the worker, as GET /v1/workers names it: gpu-0")
    default = f"http://127.0.0.1:{environ.get('ZOETROPE_PORT') or 8000}"
    parser.add_argument("--url", default=default, help=f"the service ({default})")
    parser.add_argument("--key-file", help="file with the API key (else the environment's ZOETROPE_API_KEY)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has left")
    parser.add_argument(
        "--hand-back", action="store_true", help="hand its jobs back, with checkpoints, instead of finishing them"
    )
    options = parser.parse_args(argv)
    try:
        key = _key(options.key_file, environ)
        # A service that cannot be reached is reported at once; while it is waited for, the loop tries again.
        with Client(options.url, key, retries=RetryPolicy(most=0)) as client:
            _drain(client, options.name, wait=not options.no_wait, hand_back=options.hand_back)
    except ZoetropeError as error:
        print(f"workers drain: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _key(file: str | None, environ: Mapping[str, str]) -> str:
    if file is None:
        return environ.get("ZOETROPE_API_KEY", "")
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read().strip()
    except (OSError, ValueError) as error:
        raise ZoetropeError(f"--key-file {file!r} cannot be read: {error}") from None


def _drain(client: Client, name: str, *, wait: bool, hand_back: bool) -> None:
    described = _describe(client.drain(name, hand_back=hand_back))
    print(described, flush=True)
    failed = 0
    while wait:
        time.sleep(_LOOK_S)
        try:
            workers = client.workers()
        except ZoetropeError:
            failed += 1
            if failed >= _MAX_FAILED_POLLS:
                raise
            continue
        failed = 0
        worker = next((one for one in workers if one.name == name and one.state != "lost"), None)
        if worker is None:
            print(f"{name} has left", flush=True)
            return
        if (now := _describe(worker)) != described:
            described = now
            print(described, flush=True)


def _describe(worker: Worker) -> str:
    """Describe its remaining work in one line."""
    jobs = [f"job {job.id} ({job.phase or 'starting'} {job.step}/{job.total})" for job in worker.jobs]
    return f"{worker.name} takes no more jobs; it holds {', '.join(jobs) or 'none'}"

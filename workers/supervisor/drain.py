"""`python -m workers drain NAME`: asks the service to let a worker finish what it holds and leave, and shows how far it is.

It speaks HTTP, so that it runs on any machine that reaches the service, with the key that the service asks of everybody else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

#: Seconds between two looks, and without an answer before that counts as unreachable.
_LOOK_S = 0.5
_TIMEOUT_S = 10.0
#: Looks in a row that may fail (the service restarts) before waiting ends.
_MOST_FAILED_LOOKS = 60

EXIT_REFUSED = 1

_DESCRIPTION = """\
Let a worker take no more jobs, finish the one it has, and leave; then wait until it has left. A supervisor whose workers have all left
ends with code 0 (under honcho, that stops broker and edge as well). Exit codes: 0 the worker has left (or, with --no-wait, has been
told); 1 there is no such worker, or the service cannot be asked; 2 an option is wrong.
"""


class DrainError(Exception):
    """The worker cannot be drained; one sentence on the reason."""


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
        with httpx.Client(base_url=options.url, headers=_headers(key), timeout=_TIMEOUT_S, trust_env=False) as client:
            _drain(client, options.name, wait=not options.no_wait, hand_back=options.hand_back)
    except DrainError as error:
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
        raise DrainError(f"--key-file {file!r} cannot be read: {error}") from None


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _drain(client: httpx.Client, name: str, *, wait: bool, hand_back: bool) -> None:
    query = "?hand_back=true" if hand_back else ""
    told = _describe(_ask(client, "POST", f"/v1/workers/{quote(name, safe='')}/drain{query}"))
    print(told, flush=True)
    failed = 0
    while wait:
        time.sleep(_LOOK_S)
        try:
            worker = _find(client, name)
        except DrainError:
            failed += 1
            if failed >= _MOST_FAILED_LOOKS:
                raise
            continue
        failed = 0
        if worker is None:
            print(f"{name} has left", flush=True)
            return
        if (now := _describe(worker)) != told:
            told = now
            print(told, flush=True)


def _find(client: httpx.Client, name: str) -> dict[str, Any] | None:
    """The worker, while it is there to be waited for."""
    workers = _ask(client, "GET", "/v1/workers")["data"]
    return next((worker for worker in workers if worker["name"] == name and worker["state"] != "lost"), None)


def _ask(client: httpx.Client, method: str, path: str) -> dict[str, Any]:
    try:
        response = client.request(method, path)
        body: dict[str, Any] = response.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DrainError(f"the service at {client.base_url} cannot be asked: {error}") from None
    except ValueError:
        raise DrainError(f"what answers at {client.base_url} is not this service") from None
    if response.is_success:
        return body
    raise DrainError(
        body.get("error", {}).get("message") or f"the service at {client.base_url} answers {response.status_code}"
    )


def _describe(worker: dict[str, Any]) -> str:
    """Describe its remaining work in one line."""
    jobs = [f"job {job['id']} ({job['phase'] or 'starting'} {job['step']}/{job['total']})" for job in worker["jobs"]]
    return f"{worker['name']} takes no more jobs; it holds {', '.join(jobs) or 'none'}"

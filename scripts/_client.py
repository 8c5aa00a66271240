"""Parts shared by the client scripts: one HTTP call, the task id, the end of a script. Standard library only, Python 3.9+."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import string
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
ROUTE = "/v1/local/video/generate"
#: Seconds; the server answers each of these routes at once, whatever it is drawing.
TIMEOUT_S = 30.0

# No proxy from the environment: the server is on this machine or in this network.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Reply = dict[str, Any]


class ServerError(Exception):
    """The server cannot be reached, or what answers is not it."""


def generate_task_id() -> str:
    """A random task id: five groups of four capitals and digits, such as `7QX0-M2KD-9FZB-41TC-PW8E`."""
    letters = string.ascii_uppercase + string.digits
    return "-".join("".join(secrets.choice(letters) for _ in range(4)) for _ in range(5))


def call(url: str, path: str, message: Reply | None = None) -> Reply:
    """POST `message` as JSON, or GET without one; the reply, whatever its status. Raises `ServerError`."""
    target = url.rstrip("/") + ROUTE + path
    body = None if message is None else json.dumps(message).encode()
    try:
        request = urllib.request.Request(target, data=body, headers={"Content-Type": "application/json"})
        with _opener.open(request, timeout=TIMEOUT_S) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        text = error.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(
            f"no server answers at {target} ({reason}): bash scripts/start_server.sh starts one"
        ) from None
    try:
        reply = json.loads(text)
    except ValueError:
        raise ServerError(f"{target} answered something that is not JSON: is another server on this port?") from None
    if not isinstance(reply, dict):
        raise ServerError(f"{target} answered a JSON {type(reply).__name__}: is another server on this port?")
    return reply


def show(title: str, reply: Any) -> None:
    """Print a reply for people."""
    print(f"{title}: {json.dumps(reply, ensure_ascii=False, indent=2)}")


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option that every client script has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--url", default=DEFAULT_URL, help="address of the server (default: %(default)s)")
    return result


def run(main: Callable[[], int]) -> None:
    """Run a script to its end: its exit status, 1 and one sentence without a server, 130 after Ctrl-C."""
    # A terminal that cannot show Chinese gets escapes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe is gone; the interpreter would report that once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except ServerError as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)

"""Show how far the services on these ports are until all are ready, then wait to be stopped.

`python -m zoetrope.serving.ready WORKERS PORT…`
"""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.error
import urllib.request

#: Seconds between two rounds, and for one answer.
PAUSE_S = 0.5
TIMEOUT_S = 5.0

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def workers_ready(port: str) -> int:
    """Number of workers that the edge on this port has ready; -1 while there is no such edge."""
    try:
        with _opener.open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S) as response:
            return int(json.load(response)["workers_ready"])
    except urllib.error.HTTPError:
        return 0
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def main(workers: int, ports: list[str]) -> None:
    """Return once every service answers and has `workers` workers ready."""
    begun = time.monotonic()
    shown, least = "", 0
    while least < workers:
        counts = [workers_ready(port) for port in ports]
        least = min(counts)
        services, most = sum(count >= 0 for count in counts), max(0, *counts)
        line = f"{services} of {len(ports)} services answer, {most} of {workers} workers are ready"
        if line != shown:
            _print(f"{line} after {time.monotonic() - begun:.0f} s")
            shown = line
        if least < workers:
            time.sleep(PAUSE_S)
    _print("all ready: " + " ".join(f"http://127.0.0.1:{port}" for port in ports))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(int(sys.argv[1]), sys.argv[2:])
    # The parent of the services takes the end of any process for the end of all.
    signal.pause()

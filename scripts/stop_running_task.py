"""Stop what a running server is drawing; it takes new tasks at once: python scripts/stop_running_task.py"""

from __future__ import annotations

from _client import call, parser, run, show


def main() -> int:
    """0 when something was stopped or nothing ran, 1 when the stop went wrong."""
    arguments = parser("Stop the running task.").parse_args()
    reply = call(arguments.url, "/stop_running_task")
    show("stop_running_task", reply)
    return 0 if reply.get("stop_status") in ("success", "do_nothing") else 1


if __name__ == "__main__":
    run(main)

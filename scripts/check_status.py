"""Print what a running server is doing and has done: python scripts/check_status.py [--task_id ID]"""

from __future__ import annotations

from _client import call, parser, run, show


def main() -> int:
    """0 once all three answers are printed."""
    options = parser("Print the service's status, the finished tasks, and one task's status.")
    options.add_argument("--task_id", help="task to ask for (default: the one that is running)")
    arguments = options.parse_args()
    service = call(arguments.url, "/service_status")
    show("service_status", service)
    show("get_all_tasks", call(arguments.url, "/get_all_tasks"))
    task_id = arguments.task_id or service.get("task_id")
    if task_id:
        show(f"task_status of {task_id}", call(arguments.url, "/task_status", {"task_id": task_id}))
    return 0


if __name__ == "__main__":
    run(main)

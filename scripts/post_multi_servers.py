"""Spread several tasks over several servers, each task to a server that is idle: python scripts/post_multi_servers.py

The servers are those of `num_gpus=8 bash scripts/start_multi_servers.sh`; edit `urls` and `prompts`, or name servers
with --url.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from _client import ServerError, call, generate_task_id, run

urls = [f"http://127.0.0.1:{port}" for port in range(8000, 8008)]

prompts = [
    "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",
    "A red circle moves right on a black background.",
    "A blue square moves left on a black background.",
    "A green triangle moves up on a black background.",
    "A yellow circle moves down on a black background.",
    "A white square moves right on a blue background.",
    "A red triangle moves left on a white background.",
    "A green circle moves right on a black background.",
    "A blue circle moves up on a white background.",
    "A yellow square moves down on a black background.",
]

#: Looks in a row that a server may fail to answer before it is given up.
PATIENCE = 5

Task = dict[str, Any]


def messages() -> list[Task]:
    """One request per prompt, each with its own task id and file."""
    return [
        {
            "task_id": generate_task_id(),
            "task_id_must_unique": True,
            "prompt": prompt,
            "negative_prompt": "",
            "image_path": "",
            "save_video_path": f"./output_lightx2v_wan_t2v_{number:02d}.mp4",
        }
        for number, prompt in enumerate(prompts, start=1)
    ]


class Server:
    """One address and the task that this scheduler runs there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.task: Task = {}
        self.silences = 0

    @property
    def gone(self) -> bool:
        return self.silences >= PATIENCE

    def ended(self) -> Task:
        """The record of the task posted here once the server has one, else {}."""
        reply = call(self.url, "/task_status", {"task_id": self.task["task_id"]})
        return {} if reply.get("task_status") == "processing" else reply

    def offer(self, task: Task) -> bool:
        """Post the task if the server is idle; whether it took it. Another client may be faster: then it did not."""
        if call(self.url, "/service_status").get("service_status") != "idle":
            return False
        reply = call(self.url, "", task)
        if "task_id" in reply:
            self.task = task
            return True
        if reply.get("error") != "Service busy":
            raise SystemExit(f"{self.url} refused the task: {reply}")
        return False


def step(server: Server, waiting: list[Task], records: list[Task]) -> None:
    """Look at one server: take its finished task, give it the next."""
    if server.task:
        record = server.ended()
        if record:
            records.append(record)
            how = "done" if record.get("success") else f"failed: {record.get('error', record)}"
            print(f"{server.url}  {server.task['task_id']}  {server.task['save_video_path']}  {how}", flush=True)
            server.task = {}
    if not server.task and waiting and server.offer(waiting[0]):
        task = waiting.pop(0)
        print(f"{server.url}  {task['task_id']}  posted: {task['prompt']}", flush=True)


def schedule(servers: list[Server], waiting: list[Task], pause_s: float) -> list[Task]:
    """Run every task on the first server that is idle; their records. Raises `ServerError` when no server is left."""
    records: list[Task] = []
    while waiting or any(server.task for server in servers):
        for server in servers:
            try:
                step(server, waiting, records)
                server.silences = 0
            except ServerError as error:
                server.silences += 1
                if server.gone:
                    print(f"given up: {error}", file=sys.stderr)
                    # Not posted again: it may still be running there.
                    records += [{"success": False, **server.task}] if server.task else []
        servers = [server for server in servers if not server.gone]
        if waiting and not servers:
            raise ServerError(f"no server is left; {len(waiting)} tasks were not posted")
        if waiting or any(server.task for server in servers):
            time.sleep(pause_s)
    return records


def reachable(addresses: list[str]) -> list[Server]:
    """The servers that answer. Raises `ServerError` when none does."""
    servers = []
    for address in addresses:
        try:
            call(address, "/service_status")
            servers.append(Server(address))
        except ServerError as error:
            failure = error
    if not servers:
        raise failure
    print(f"{len(servers)} of {len(addresses)} servers answer", flush=True)
    return servers


def main() -> int:
    """0 when every task succeeded."""
    options = argparse.ArgumentParser(description="Spread tasks over servers that are idle.")
    options.add_argument("--url", action="append", help="address of a server; repeat it (default: ports 8000 to 8007)")
    options.add_argument("--pause", type=float, default=0.5, help="seconds between two looks (default: %(default)s)")
    arguments = options.parse_args()
    waiting = messages()
    begun = time.monotonic()
    records = schedule(reachable(arguments.url or urls), waiting, arguments.pause)
    good = sum(bool(record.get("success")) for record in records)
    print(f"{good} of {len(records)} tasks succeeded in {time.monotonic() - begun:.1f} s")
    return 0 if good == len(records) else 1


if __name__ == "__main__":
    run(main)

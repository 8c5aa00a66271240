"""An engine that does what the job's body says; torch-free and quick to start.

Bodies: "finish" (writes one file), "fail", "die", "wait" (until cancelled or parked), "deaf" (works on, hears no cancel), "babble"
(breaks the protocol), "flood" (reads nothing more), "tail" (lets another job in, and waits until cancelled), "daemon" (leaves a process
behind in a session of its own, its id in the attempt's directory, and works on as "deaf" does). ENGINE_LOAD in the environment: "fail"
makes the model unloadable, "fail_1" in rank 1 alone, "die" ends the process. A rank above 0 loads, and waits for the agent's end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from broker.wire.jobspec import Artefact, Result
from workers.ipc.channel import Channel
from workers.ipc.messages import (
    JobCancelled,
    JobFailed,
    JobFinished,
    JobParked,
    LoadFailed,
    PostprocessBegun,
    Ready,
    RunJob,
    Setup,
    ToEngine,
)
from workers.ipc.shared import SharedCounters, Slot


def leave_with_the_agent(channel: Channel, jobs: list[RunJob], came: threading.Condition) -> None:
    while (message := channel.receive()) is not None:
        with came:
            jobs.append(message)  # type: ignore[arg-type]
            came.notify()
    os._exit(0)


def run(channel: Channel, words: SharedCounters, job: RunJob) -> None:
    slot = words.slots[job.slot]
    slot.begin(job.fence)
    slot.report("denoise", 1, 4)
    order = job.body.decode()
    if order == "finish":
        Path(job.out_dir, "video.mp4").write_bytes(b"mp4")
        artefact = Artefact(name="video.mp4", media_type="video/mp4", size=3, sha256="0" * 64)
        channel.send(JobFinished(fence=job.fence, result=Result(artefacts=(artefact,)), run_s=0.1, model="demo"))
    elif order == "fail":
        channel.send(JobFailed(fence=job.fence, kind="engine_error", message="as told", model="demo"))
    elif order == "die":
        os._exit(42)
    elif order == "babble":
        channel.sock.sendall(b"\xff\xff\xff\xff nonsense")
        threading.Event().wait()
    elif order == "tail":
        channel.send(PostprocessBegun(fence=job.fence, model="demo"))
        threading.Thread(target=until_cancelled, args=(channel, slot, job.fence), daemon=True).start()
    elif order == "daemon":
        leave_behind(Path(job.out_dir, "pid"))
        until_cancelled(channel, slot, 0)
    elif order == "deaf":
        until_cancelled(channel, slot, 0)
    else:
        until_cancelled(channel, slot, job.fence)


def leave_behind(file: Path) -> None:
    """Start a process whose parent ends at once."""
    script = f"sleep 600 & echo $! > {file}.new; mv {file}.new {file}"
    subprocess.run(["sh", "-c", script], start_new_session=True, check=True)


def until_cancelled(channel: Channel, slot: Slot, fence: int) -> None:
    pause = threading.Event()
    while not (fence and slot.cancelled(fence)):
        slot.touch()
        if fence and slot.park_requested(fence):
            channel.send(JobParked(fence=fence, kept=1, model="demo"))
            return
        pause.wait(0.01)
    channel.send(JobCancelled(fence=fence, model="demo"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--meeting", type=int)
    parser.add_argument("--spare", default="")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=options.socket), ToEngine)
    words = SharedCounters(options.words)
    setup = channel.receive()
    assert isinstance(setup, Setup)
    rank = os.environ.get("RANK", "0")
    match os.environ.get("ENGINE_LOAD"):
        case "fail_1" if rank == "0":
            channel.receive()  # the others must load before it is ready
        case "fail" | "fail_1":
            channel.send(LoadFailed(model=setup.preload, message="there are no weights"))
            sys.exit(65)
        case "die":
            os._exit(43)
    if rank != "0":
        channel.receive()
        sys.exit(0)
    channel.send(Ready(model=setup.preload, load_s=0.1))
    jobs: list[RunJob] = []
    came = threading.Condition()
    threading.Thread(target=leave_with_the_agent, args=(channel, jobs, came), daemon=True).start()
    while True:
        with came:
            came.wait_for(lambda: jobs)
            job = jobs.pop(0)
        run(channel, words, job)


if __name__ == "__main__":
    main()

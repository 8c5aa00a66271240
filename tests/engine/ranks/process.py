"""Engine processes whose latents and faults a test sees to: `python -m tests.engine.ranks.process DESCRIPTOR`.

It imports what an engine does, and forks one for each environment that comes over the socket, with the engine's descriptors: so many
engines cost one import. The answer is the pid; a pid that comes is waited for, and answered by the exit status.

With an engine's own arguments in place of the descriptor it is such an engine, as an agent starts one.

What each call of a pipeline gave lies in the directory TAPS as `<fence>-<output>-<rank>.npy`, and for how long each of its votes waited
as `votes-<rank>.npy`; the last picture that a rank has read as `read-<rank>`. A file `FAULT-<rank>` in it is taken away
when the denoiser next comes to the place of that name: `pass`, within a pass; `memory`, as well; `between`, before the vote; `die`, by
SIGKILL within a pass; `state`, when
a checkpoint is put back, which fails as one that is not known; `hold`, before the vote, where it waits until somebody opens the pipe `go`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers.engine import diffusion, group, group_engine, image, inputs, loop, resuming, video
from workers.engine.votes import Votes

#: Imported for the engines that are forked.
_IMPORTED = (image, video)


def _due(fault: str) -> bool:
    file = Path(os.environ["TAPS"], f"{fault}-{os.environ.get('RANK', '0')}")
    there = file.exists()
    file.unlink(missing_ok=True)
    return there


def _tap() -> None:
    call: Any = diffusion.DiffusionEngine.call
    together: Any = Votes.together
    split: Any = group_engine.split
    highest: Any = group.Group.highest
    read_image: Any = inputs.read_image
    put_back: Any = resuming.Resumption._put_back
    waits: list[float] = []

    def tapped(self: Any, pipe: Any, card: Any, spec: Any, index: int, monitor: Any, **more: Any) -> Any:
        output = call(self, pipe, card, spec, index, monitor, **more)
        made = output[0] if isinstance(output, tuple) else getattr(output, "frames", getattr(output, "images", None))
        array = made.cpu().numpy() if isinstance(made, torch.Tensor) else np.asarray(made)
        name = f"{monitor.fence}-{index}-{os.environ.get('RANK', '0')}.npy"
        np.save(Path(os.environ["TAPS"], name), array)
        np.save(Path(os.environ["TAPS"], f"votes-{os.environ.get('RANK', '0')}.npy"), np.array(waits))
        waits.clear()
        return output

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        answer = highest(*args)
        waits.append(time.perf_counter() - began)
        return answer

    def faulty(self: Any, number: int = 0) -> Any:
        if _due("between"):
            raise RuntimeError("a fault of the test")
        if _due("hold"):
            Path(os.environ["TAPS"], "go").read_bytes()
        return together(self, number)

    def reading(path: Path, *more: Any) -> Any:
        Path(os.environ["TAPS"], f"read-{os.environ.get('RANK', '0')}").write_text(str(path))
        return read_image(path, *more)

    def unknown(*args: Any) -> Any:
        if _due("state"):
            raise resuming.UnknownState("a fault of the test")
        return put_back(*args)

    def inside(*_: Any) -> None:
        if _due("pass"):
            raise RuntimeError("a fault of the test")
        if _due("memory"):
            raise RuntimeError("CUDA out of memory: a fault of the test")
        if _due("die"):
            os.kill(os.getpid(), signal.SIGKILL)

    def hooked(pipe: Any, *args: Any) -> Any:
        next(pipe.transformer.children()).register_forward_pre_hook(inside)
        return split(pipe, *args)

    inputs.read_image = reading
    resuming.Resumption._put_back = unknown  # type: ignore[method-assign]
    diffusion.DiffusionEngine.call = tapped  # type: ignore[method-assign]
    group.Group.highest = timed  # type: ignore[method-assign]
    Votes.together = faulty  # type: ignore[method-assign]
    group_engine.split = hooked


def _serve(control: socket.socket) -> None:
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 65_536, 3)
        if not text:
            return
        asked = json.loads(text)
        if isinstance(asked, int):
            _, status = os.waitpid(asked, 0)
            control.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            os.environ.update(asked)
            with open(Path(os.environ["TAPS"], f"log-{os.environ.get('RANK', '0')}"), "ab") as log:
                os.dup2(log.fileno(), 2)
            names = ("--socket", "--words", "--meeting")
            status = loop.main([word for pair in zip(names, map(str, descriptors), strict=False) for word in pair])
            logging.shutdown()
            os._exit(status)
        for one in descriptors:
            os.close(one)
        control.sendall(str(pid).encode())


if __name__ == "__main__":
    _tap()
    if sys.argv[1].isdecimal():
        _serve(socket.socket(fileno=int(sys.argv[1])))
    status = loop.main(sys.argv[1:])
    logging.shutdown()
    os._exit(status)

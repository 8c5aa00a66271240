"""Probing of a client's clip in a process of its own, within limits of memory and time.

A few bytes of an index can stand for any number of frames, and fill the memory of the process that reads it.
Blocks: callers are worker threads.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from broker.runtime import clips
from broker.runtime.clips import BadClip, ClipFacts

#: Address space of the process, of which Python and FFmpeg take a quarter; its processor time; and time in all.
_MEMORY_BYTES = 2 * 1024**3
_CPU_S = 10
_TOTAL_S = 30.0

#: Variables that the process gets: the environment holds secrets.
_ENVIRONMENT = ("LD_LIBRARY_PATH",)


def probe(data: bytes) -> ClipFacts:
    """Read size, rate and length of a clip. Raises `BadClip`."""
    # By its file: it needs nothing of ours, and so no directory of ours to be found in.
    command = [sys.executable, "-I", clips.__file__, str(_MEMORY_BYTES), str(_CPU_S)]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_TOTAL_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise BadClip(f"could not be looked into within {_TOTAL_S:.0f} s") from None
    if done.returncode == clips.REFUSED:
        raise BadClip(done.stdout.decode("utf-8", "replace")[:200])
    if done.returncode != 0:
        raise BadClip("could not be looked into within the memory and the time that a clip may take")
    return msgspec.json.decode(done.stdout, type=ClipFacts)

"""Exit codes of our own processes, and descriptions of a child's end."""

from __future__ import annotations

import signal

#: Stopped by a signal, or drained: not started again.
EXIT_LEFT = 0
#: Bad settings; the sentence is on stderr. Starting again would not help.
EXIT_SETTINGS = 2
#: The broker dismissed this worker (the protocol differs, or the name is not its key's). Not started again.
EXIT_UNWANTED = 3
#: No worker can load its model; the sentence is on stderr.
EXIT_NO_MODEL = 4
#: The agent needs a fresh start: the broker it found has another journal than the one before, or its own address was not there.
EXIT_RESTART = 5
#: Another process took this worker's name: started again after a while, to take the name back once no other bears it.
EXIT_NAME_TAKEN = 6


def describe_exit(code: int) -> str:
    """A `Popen.returncode` in words: "exit code 1", "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

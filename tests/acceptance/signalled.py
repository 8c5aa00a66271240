"""`python signalled.py FUNCTION MODULE …`: a process of the service, with a SIGTERM in the midst of its event loop.

The signal comes with every call of a function of that name, from the making of the loop on; the arguments that follow are the process's.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType
from typing import Any

from broker.runtime import signals


def main() -> int:
    function, module, *options = sys.argv[1:]
    signals.obey(options)
    run = importlib.import_module(f"{module}.cli").main
    armed = False

    def called(frame: FrameType, event: str, _: Any) -> None:
        nonlocal armed
        name = frame.f_code.co_name
        armed = armed or frame.f_code.co_filename.endswith("asyncio/runners.py")
        if armed and event == "call" and name == function:
            signal.raise_signal(signal.SIGTERM)

    sys.setprofile(called)
    return run(options)


if __name__ == "__main__":
    signals.leave(main())

"""The device of a pipeline's calls, looked for when its weights are placed and not at each call.

Diffusers searches all modules of all components for hooks that have it, at the beginning of every call: some 3 ms for 400 modules,
in which the device waits for the next job.
"""

from __future__ import annotations

import functools
from typing import Any

_DEVICE_ATTRIBUTE = "_execution_device"
_KEPT = "_kept_execution_device"


def keep_execution_device(pipe: Any) -> None:
    """From now on, until `forget_execution_device`, the pipeline's calls run on the device that they would run on now."""
    forget_execution_device(pipe)
    device = getattr(pipe, _DEVICE_ATTRIBUTE)
    kind: Any = type(pipe)
    pipe.__class__ = _keeping(kind)
    vars(pipe)[_KEPT] = device


def forget_execution_device(pipe: Any) -> None:
    """Its weights are about to be placed elsewhere."""
    vars(pipe).pop(_KEPT, None)


@functools.cache
def _keeping(kind: Any) -> Any:
    """A class that is as `kind` in all else, its name too, by which pipelines are distinguished."""
    if hasattr(kind, _KEPT):
        return kind

    def device_of(pipe: Any) -> Any:
        kept = vars(pipe).get(_KEPT)
        return getattr(super(keeping, pipe), _DEVICE_ATTRIBUTE) if kept is None else kept

    keeping: Any = type(
        kind.__name__, (kind,), {_DEVICE_ATTRIBUTE: property(device_of), _KEPT: None, "__module__": kind.__module__}
    )
    return keeping

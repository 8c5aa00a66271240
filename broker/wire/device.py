"""Health of a worker's device, in heartbeats and views."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from broker.wire.terms import Count, Short


class DeviceHealth(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Power, clocks and errors of a GPU; -1 where not known, and nothing at all of a CPU."""

    power_w: float = -1.0
    power_limit_w: float = -1.0
    #: Of the multiprocessors.
    clock_mhz: float = -1.0
    clock_max_mhz: float = -1.0
    #: Why its clocks are held back now.
    throttled: Annotated[tuple[Short, ...], Meta(max_length=16)] = ()
    #: Memory errors that could not be corrected since the driver was loaded.
    ecc_uncorrected: Annotated[int, Meta(ge=-1)] = -1
    #: Errors that the driver has reported since the worker started: how often each number.
    xids: Annotated[dict[int, Count], Meta(max_length=32)] = msgspec.field(default_factory=dict)
    #: Why the device is not to be used, in one clause; "": nothing is wrong with it. It stays until another agent process registers.
    fault: Short = ""

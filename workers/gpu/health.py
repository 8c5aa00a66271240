"""Diagnosis of a GPU from its measurements: whether it is throttled, and whether it is broken. Pure.

An Xid is the driver's number for an error. Those of a program (13, 31, 43, 45, …) are no fault of the device: the engine fails and is
started again. Those in `BROKEN` mean that the device is not to be used before it is reset or replaced (NVIDIA's "Xid errors" document).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from broker.wire.device import DeviceHealth
from workers.gpu.library import Reading

#: Xid -> what it means, in words for the operator.
BROKEN: Mapping[int, str] = {
    46: "the GPU has stopped processing",
    48: "a memory error of two bits, which cannot be corrected",
    62: "the GPU's own controller has halted",
    64: "broken memory cannot be replaced by spare rows",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    94: "a memory error that cannot be corrected, contained to one program",
    95: "a memory error that cannot be corrected, and is not contained",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor has failed",
    140: "a memory error that cannot be corrected or recovered from",
}

#: Rows of memory were remapped; with a reset still to come the device is to be taken out, without one nothing is wrong.
ROW_REMAP = 63

#: Different Xids that are counted.
MAX_XIDS = 32

#: Bit of the clocks' reasons -> its name. An idle GPU and clocks set by the operator are none.
_THROTTLING: Mapping[int, str] = {
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x20: "thermal_software",
    0x40: "thermal_hardware",
    0x80: "power_brake",
    0x200: "board_limit",
    0x400: "reliability",
}

LOST = "the GPU does not answer any more (it is lost)"


def throttling(clock_reasons: int) -> tuple[str, ...]:
    """Return the reasons why the clocks are lower than they could be, in words; () when they are not."""
    return tuple(name for bit, name in _THROTTLING.items() if clock_reasons & bit)


def fault(reading: Reading, xids: Mapping[int, int], *, lost: bool = False) -> str:
    """Return the reason why this device is not to be used, in one clause; "" when there is none. `xids`: how often each was reported."""
    for xid in xids:
        if xid in BROKEN:
            return f"Xid {xid}: {BROKEN[xid]}"
    if lost:
        return LOST
    if reading.remap_failed:
        return "broken memory could not be replaced by spare rows; the GPU is to be replaced"
    if reading.remap_pending:
        mark = f"Xid {ROW_REMAP}: " if ROW_REMAP in xids else ""
        return f"{mark}broken memory is to be replaced by spare rows, which needs a reset of the GPU"
    return ""


def health(reading: Reading, xids: Mapping[int, int], *, lost: bool = False) -> DeviceHealth:
    """Build a heartbeat's part about the device."""
    return DeviceHealth(
        power_w=reading.power_w,
        power_limit_w=reading.power_limit_w,
        clock_mhz=reading.clock_mhz,
        clock_max_mhz=reading.clock_max_mhz,
        throttled=throttling(reading.clock_reasons),
        ecc_uncorrected=reading.ecc_uncorrected,
        xids=dict(sorted(xids.items())),
        fault=fault(reading, xids, lost=lost),
    )


def together(healths: Mapping[str, DeviceHealth]) -> DeviceHealth:
    """Return the health of several GPUs, by their names, as that of one device.

    Power and errors in sum, the slowest clocks, a fault with the name of the GPU that has it.
    """
    each = [*healths.values()]
    if len(each) == 1:
        return each[0]
    faults = ((name, one.fault) for name, one in healths.items() if one.fault)
    return DeviceHealth(
        power_w=_sum([one.power_w for one in each]),
        power_limit_w=_sum([one.power_limit_w for one in each]),
        clock_mhz=_least([one.clock_mhz for one in each]),
        clock_max_mhz=_least([one.clock_max_mhz for one in each]),
        throttled=tuple(dict.fromkeys(reason for one in each for reason in one.throttled)),
        ecc_uncorrected=int(_sum([one.ecc_uncorrected for one in each])),
        xids=dict(sorted(sum((Counter(one.xids) for one in each), Counter()).items())[:MAX_XIDS]),
        fault=next((f"GPU {name}: {fault}" for name, fault in faults), ""),
    )


def _sum(known: Sequence[float]) -> float:
    """The sum; -1 when one of them is not known."""
    return sum(known) if min(known) >= 0 else -1.0


def _least(known: Sequence[float]) -> float:
    return min((one for one in known if one >= 0), default=-1.0)

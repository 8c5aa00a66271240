"""Sampling of a GPU on a thread of its own, so that a call that hangs in the driver holds up nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.wire.device import DeviceHealth
from workers.gpu.health import MAX_XIDS, health
from workers.gpu.library import Gpu, GpuLibrary, GpuLibraryError, GpuLostError, Reading

logger = logging.getLogger(__name__)

#: Between two measurements; an Xid is known at once.
_PACE_S = 1.0

#: The start waits so long for the device's name, and goes on without it then.
_OPEN_S = 5.0

#: A measurement older than this does not count any more.
_STALE_S = 10.0


class Sample(Struct, frozen=True):
    """Measurement with its diagnosis."""

    reading: Reading = Reading()
    health: DeviceHealth = DeviceHealth()


class GpuWatch:
    """The latest measurement of one GPU. The thread alone changes anything; `_latest` is replaced whole."""

    def __init__(self, library: GpuLibrary, visible: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._library = library
        self._visible = visible
        self._clock = clock
        self._latest = (Sample(), clock())
        self._xids: Counter[int] = Counter()
        #: The first that was found: a broken device is not well again because a later measurement does not show it.
        self._fault = ""
        #: Whether there is something to wait for: false once the library is known not to be there, or the GPU is lost.
        self._watching = True
        self._silent = False
        #: Product name; "" until the library has given it.
        self.name = ""
        opened = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(opened,), name="gpu-watch", daemon=True)
        self.thread.start()
        opened.wait(_OPEN_S)

    def latest(self) -> Sample:
        """Return the last measurement. When that is long ago, only its lasting part: the fault and the counts."""
        sample, at = self._latest
        silent = self._watching and self._clock() - at > _STALE_S
        if silent and not self._silent:
            self._log_unread(f"no answer in {_STALE_S:g} s")
        self._silent = silent
        if not silent:
            return sample
        reported = sample.health
        return Sample(
            health=DeviceHealth(ecc_uncorrected=reported.ecc_uncorrected, xids=reported.xids, fault=reported.fault)
        )

    def _run(self, opened: threading.Event) -> None:
        try:
            gpu = self._library.open(self._visible)
            self.name = gpu.name
        except GpuLibraryError as error:
            self._watching = False
            self._log_unread(str(error))
            return
        finally:
            opened.set()
        while self._watching:
            self._measure(gpu)

    def _measure(self, gpu: Gpu) -> None:
        """Measure, then wait for Xids."""
        try:
            self._note(gpu.read())
            for xid in gpu.wait_for_xids(_PACE_S):
                logger.warning("the driver reports an error", extra={"action": Action.GPU_XID, "xid": xid})
                if xid in self._xids or len(self._xids) < MAX_XIDS:
                    self._xids[xid] += 1
                self._note(self._latest[0].reading)
        except GpuLostError:
            self._note(Reading(), lost=True)
            self._watching = False
        except GpuLibraryError:
            time.sleep(_PACE_S)  # the next one may answer; what was measured grows old meanwhile

    def _note(self, reading: Reading, *, lost: bool = False) -> None:
        reported = health(reading, self._xids, lost=lost)
        self._fault = self._fault or reported.fault
        self._latest = (Sample(reading, replace(reported, fault=self._fault)), self._clock())

    def _log_unread(self, why: str) -> None:
        logger.warning(
            "a GPU's numbers cannot be read",
            extra={"action": Action.GPU_UNREAD, "device": self._visible, "detail": why},
        )

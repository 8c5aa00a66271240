"""Sharing of places for large bodies. Places are few, as each holds descriptors and a buffer; a client has half of them at most.

Rules. An upload that finds no place left takes that of a slow one: of the client with the most places, the slowest.
So held connections cost their sender, and no other. An upload that is new or quick is never ended for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address

#: Uploads at once: in all, and of one client.
AT_ONCE = 256
_OF_CLIENT = 128

#: An upload younger than this, or at least at this average rate, is never ended for another.
_NEW_S = 3.0
_QUICK_BYTES_PER_S = 64 * 1024


class Upload:
    """Upload under way. `stop` is called once, when its place is given to another; `leave` is to be called all the same."""

    __slots__ = ("client", "since", "size", "stop")

    def __init__(self, client: str, now: float, stop: Callable[[], None]) -> None:
        self.client = client
        self.since = now
        #: Bytes received.
        self.size = 0
        self.stop = stop

    def rate(self, now: float) -> float:
        """Bytes a second, on average."""
        return self.size / max(1e-9, now - self.since)


class UploadPlaces:
    """The uploads of one edge."""

    def __init__(self) -> None:
        self._uploads: set[Upload] = set()
        self._clients: Counter[str] = Counter()

    def enter(self, upload: Upload) -> bool:
        """Admit an upload, in place of a slow one if all places are taken; return whether it was admitted."""
        now = upload.since
        full = len(self._uploads) >= AT_ONCE
        if full or self._clients[upload.client] >= _OF_CLIENT:
            slow = [one for one in self._uploads if now - one.since >= _NEW_S and one.rate(now) < _QUICK_BYTES_PER_S]
            if self._clients[upload.client] >= _OF_CLIENT:
                slow = [one for one in slow if one.client == upload.client]
            if not slow:
                return False
            ended = min(slow, key=lambda one: (-self._clients[one.client], one.rate(now)))
            self.leave(ended)
            ended.stop()
        self._uploads.add(upload)
        self._clients[upload.client] += 1
        return True

    def leave(self, upload: Upload) -> None:
        """Free the place of an upload; also of one that was stopped."""
        if upload in self._uploads:
            self._uploads.remove(upload)
            self._clients[upload.client] -= 1
            if not self._clients[upload.client]:
                del self._clients[upload.client]


def network_of(address: str) -> str:
    """Return the network of one client: an IPv4 address, or a /64 of IPv6."""
    try:
        whole = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(whole.ipv4_mapped) if whole.ipv4_mapped else f"{int(whole) >> 64:x}"

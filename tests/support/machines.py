"""Two machines on one: network namespaces that share a cable and nothing else, each with a directory that the other does not see."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

#: A block for documentation and tests, in no network that routes.
_ADDRESSES = ("198.18.77.1", "198.18.77.2")

#: Run in a mount namespace of its own: the other machine's directory is empty there, and stays so.
_HIDE = 'mount --make-rprivate / && mount -t tmpfs -o ro none "$0" && exec "$@"'


class Machine:
    """One of the two: its address and its directory."""

    def __init__(self, name: str, address: str, root: Path) -> None:
        self.name = name
        self.address = address
        self.root = root
        self.hidden = root
        root.mkdir(mode=0o700)

    @property
    def within(self) -> list[str]:
        """A command that becomes the one behind it, on this machine."""
        return ["ip", "netns", "exec", self.name, "unshare", "--mount", "sh", "-c", _HIDE, str(self.hidden)]


class TwoMachines:
    """Two machines and the cable between them."""

    def __init__(self, directory: Path) -> None:
        """Raises `subprocess.CalledProcessError` where that is not allowed."""
        mark = f"zt{os.getpid() % 100000}"
        self.both = tuple(
            Machine(f"{mark}{letter}", address, directory / letter)
            for letter, address in zip("ab", _ADDRESSES, strict=True)
        )
        first, second = self.both
        first.hidden, second.hidden = second.root, first.root
        try:
            for machine in self.both:
                _ip("netns", "add", machine.name)
            _ip(
                "link",
                "add",
                first.name,
                "netns",
                first.name,
                "type",
                "veth",
                "peer",
                second.name,
                "netns",
                second.name,
            )
            for machine in self.both:
                _ip("-n", machine.name, "address", "add", f"{machine.address}/30", "dev", machine.name)
                for device in ("lo", machine.name):
                    _ip("-n", machine.name, "link", "set", device, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def pull(self) -> None:
        """Take the cable out: nobody is told."""
        machine = self.both[1]
        _ip("-n", machine.name, "link", "set", machine.name, "down")

    def plug(self) -> None:
        """Put it back."""
        machine = self.both[1]
        _ip("-n", machine.name, "link", "set", machine.name, "up")

    def close(self) -> None:
        """Take everything down; processes of theirs must have ended."""
        for machine in self.both:
            subprocess.run(["ip", "netns", "delete", machine.name], check=False, capture_output=True)


def possible() -> str:
    """Why there can be no two machines here; "" when there can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if not all(map(shutil.which, ("ip", "unshare", "mount"))):
        return "there is no ip, unshare or mount here"
    made = subprocess.run(["ip", "netns", "add", name := f"zt{os.getpid()}probe"], check=False, capture_output=True)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=False)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

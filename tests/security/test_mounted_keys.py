"""A broker whose `curve_dir` is a mounted secret, laid out as Kubernetes does: links to a directory of the version, which are exchanged."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from broker.runtime.curve_keys import list_directory, read_allowed, read_broker, read_peer_key
from broker.runtime.settings import SettingsError
from tests.security.conftest import KeyDesk
from tests.security.dealers import Dealer
from tests.security.procs import broker_process
from tests.support.waiting import wait_until

#: Through the group, as with `fsGroup`, where these files are root's.
MODE = 0o440 if os.getuid() == 0 else 0o400


class Mount:
    """The volume. Each version shows the broker's key and the entries of these peers."""

    def __init__(self, path: Path, harness: KeyDesk) -> None:
        self.path = path
        self._desk = harness
        self._versions = 0
        path.mkdir()
        path.chmod(0o1777)
        (path / "broker.key").symlink_to("..data/broker.key")
        (path / "allowed").symlink_to("..data/allowed")

    def show(self, *names: str) -> None:
        self._versions += 1
        version = self.path / f"..2026_01_0{self._versions}"
        (version / "allowed").mkdir(parents=True)
        for name in ("broker.key", *(f"allowed/{name}.pub" for name in names)):
            shutil.copy(self._desk.directory / name, version / name)
            (version / name).chmod(MODE)
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").replace(self.path / "..data")


@pytest.fixture
def mount(harness: KeyDesk, tmp_path: Path) -> Mount:
    return Mount(tmp_path / "mount", harness)


def test_a_broker_takes_its_keys_from_a_mounted_secret_and_follows_its_changes(
    harness: KeyDesk, tmp_path: Path, mount: Mount
) -> None:
    first, second = (read_peer_key(harness.add(name, "worker"), "worker") for name in ("node-1", "node-2"))
    mount.show("node-1")
    with broker_process(tmp_path / "home", KeyDesk(mount.path)) as broker:
        dealers = [Dealer(broker.back_tcp, key) for key in (first, second)]
        try:
            wait_until(dealers[0].connected, 60, "node-1 to get in")
            wait_until(lambda: "connection refused" in broker.logged(), 60, "node-2 to be refused")
            mount.show("node-1", "node-2")
            wait_until(dealers[1].connected, 60, "node-2 to get in")
        finally:
            for dealer in dealers:
                dealer.close()


def test_the_list_may_be_mounted_into_a_private_directory(harness: KeyDesk, mount: Mount) -> None:
    harness.add("node-1", "worker")
    mount.show("node-1")
    shutil.rmtree(harness.directory / "allowed")
    (harness.directory / "allowed").mkdir()
    (harness.directory / "allowed").chmod(0o1777)
    assert list_directory(harness.directory) == harness.directory / "allowed"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("open", "can be entered by others"),
        ("own", "can be entered by others"),
        ("list", "allowed' is no directory"),
        ("list open", "others may write"),
        ("link", "is a link or a file"),
    ],
)
def test_a_directory_that_others_could_change_is_refused(harness: KeyDesk, mount: Mount, harm: str, words: str) -> None:
    mount.show()
    directory = mount.path
    match harm:
        case "open":
            directory.chmod(0o777)
        case "own":
            directory.chmod(0o755)
        case "list":
            (directory / "allowed").unlink()
        case "list open":
            (directory / "..data/allowed").chmod(0o777)
        case _:
            directory = harness.directory.with_name("elsewhere")
            directory.symlink_to(harness.directory)
    with pytest.raises(SettingsError, match=words):
        list_directory(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("mode", "usable"), [(0o440, True), (0o400, False), (0o444, False)])
def test_a_service_that_is_not_root_reads_roots_files_through_its_group(
    harness: KeyDesk, mode: int, usable: bool
) -> None:
    """The usual case in a pod: `runAsUser` and `fsGroup`."""
    nobody = 65534
    harness.add("node-1", "worker")
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        mount = Mount(Path(path) / "mount", harness)
        mount.show("node-1")
        for name in ("broker.key", "allowed/node-1.pub"):
            os.chown(mount.path / name, 0, nobody)
            (mount.path / name).chmod(mode)
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([nobody])
                os.setresgid(nobody, nobody, nobody)
                os.setresuid(nobody, nobody, nobody)
                read_allowed(list_directory(mount.path) / "node-1.pub")
                read_broker(mount.path / "broker.key")
            except SettingsError:
                os._exit(2)
            except BaseException:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if usable else 2)

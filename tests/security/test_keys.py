"""`python -m broker keys`, and what the three processes do without the keys that they need."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker import cli as broker_cli
from broker.keys_cli import main as keys
from broker.runtime.curve_keys import read_broker, read_peer_key
from broker.runtime.settings import SettingsError
from http_edge import cli as edge_cli
from tests.security.conftest import KeyDesk
from workers import cli as workers_cli


def secrets_below(directory: Path) -> list[str]:
    return [tomllib.loads(path.read_text())["secret"] for path in directory.rglob("*.key")]


def test_no_secret_key_is_ever_printed(harness: KeyDesk, capsys: pytest.CaptureFixture[str]) -> None:
    harness.add("node-2", "worker")
    harness.add("edge-2", "edge")
    harness("add", "here", "--role", "worker", "--here")
    harness("list")
    harness("add", "node-2", "--role", "worker")
    printed = "".join(capsys.readouterr())
    made = secrets_below(harness.directory)
    assert len(made) == 4
    assert not [secret for secret in made if secret in printed]
    # Nor by whoever shows the struct, in a log or a traceback.
    key = read_peer_key(harness.directory / "issued/node-2.key", "worker")
    pair = read_broker(harness.directory / "broker.key")
    assert key.secret not in repr(key)
    assert pair.secret not in repr(pair)


def test_files_are_their_owners_alone_whatever_the_umask(harness: KeyDesk) -> None:
    harness.add("node-2", "worker")
    modes = {
        path.relative_to(harness.directory): stat.S_IMODE(path.stat().st_mode) for path in harness.directory.rglob("*")
    }
    assert {mode for path, mode in modes.items() if path.suffix} == {0o600}
    assert {mode for path, mode in modes.items() if not path.suffix} == {0o700}
    assert stat.S_IMODE(harness.directory.stat().st_mode) == 0o700


def test_add_says_what_to_copy_where(harness: KeyDesk, capsys: pytest.CaptureFixture[str]) -> None:
    path = harness.add("node-2", "worker")
    printed = capsys.readouterr().out
    for part in (str(path), "curve/worker.key", "0600", "node-2.gpu-0"):
        assert part in printed


def test_the_list_names_peers_and_roles_and_what_is_still_here(
    harness: KeyDesk, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.add("node-2", "worker").unlink()
    harness.add("edge-2", "edge")
    (harness.directory / "allowed/broken.pub").write_text("nonsense")
    capsys.readouterr()
    assert harness("list") == 0
    broker, broken, edge, node = capsys.readouterr().out.splitlines()
    assert broker.startswith("broker ")
    assert "broken.pub" in broken
    assert edge.startswith("edge-2 role=edge ")
    assert "issued" in edge
    assert node.startswith("node-2 role=worker ")
    assert "issued" not in node


def test_a_removed_key_is_off_the_list_and_its_copies_here_are_gone(harness: KeyDesk) -> None:
    harness.add("node-2", "worker")
    harness("add", "here", "--role", "worker", "--here")
    for name in ("node-2", "here"):
        assert harness("remove", name) == 0
    assert not list(harness.directory.rglob("*.pub"))
    assert [path.name for path in harness.directory.rglob("*.key")] == ["broker.key"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["init"], "exists"),
        (["add", "node-2", "--role", "worker"], "exists"),
        (["add", "../x", "--role", "worker"], "no name"),
        (["add", "a.b", "--role", "worker"], "no name"),
        (["add", "x" * 33, "--role", "worker"], "no name"),
        (["remove", "nobody"], "no key named 'nobody'"),
        (["remove", "../broker"], "no key named"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    harness: KeyDesk, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    harness.add("node-2", "worker")
    before = sorted(harness.directory.rglob("*"))
    capsys.readouterr()
    assert harness(*argv) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(harness.directory.rglob("*")) == before


def test_a_key_needs_the_brokers_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(["add", "node-2", "--role", "worker", "--home", str(tmp_path)], {}) == 2
    assert "python -m broker keys init" in capsys.readouterr().err


def test_the_directory_may_not_be_open_to_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "curve"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    assert KeyDesk(directory)("init") == 2
    assert "0700" in capsys.readouterr().err
    assert not list(directory.iterdir())


@pytest.mark.parametrize("harm", ["open", "link", "role", "text", "huge", "pipe"])
def test_a_key_file_that_cannot_be_trusted_is_refused_without_showing_it(harness: KeyDesk, harm: str) -> None:
    path = harness.add("node-2", "worker")
    secret = tomllib.loads(path.read_text())["secret"]
    if harm == "open":
        path.chmod(0o640)
    elif harm == "link":
        where = harness.directory / "open"
        where.mkdir()
        where.chmod(0o777)
        path.symlink_to(path.rename(where / path.name))
    elif harm == "text":
        path.write_text(f"secret = {secret}")
    elif harm == "huge":
        path.write_text(path.read_text() + "#" * 10_000 + "\nx = 1\n" * 1000)
    elif harm == "pipe":
        subprocess.run(["mkfifo", "-m", "600", f"{path}.fifo"], check=True)
        path = path.with_name(f"{path.name}.fifo")
    with pytest.raises(SettingsError) as caught:
        read_peer_key(path, "edge" if harm == "role" else "worker")
    assert str(path) in str(caught.value)
    assert secret not in str(caught.value)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444])
def test_a_mounted_secret_is_read_through_its_links_unless_all_may_read_it(
    harness: KeyDesk, tmp_path: Path, mode: int
) -> None:
    mount = tmp_path / "mount"
    (mount / "..2026_01_01").mkdir(parents=True)
    mount.chmod(0o1777)
    (mount / "..data").symlink_to("..2026_01_01")
    (mount / "worker.key").symlink_to("..data/worker.key")
    file = harness.add("node-2", "worker").rename(mount / "..2026_01_01/worker.key")
    file.chmod(mode)
    refused = mode & 0o004 or (mode & 0o040 and os.getuid() != 0)
    with pytest.raises(SettingsError, match="read by others") if refused else contextlib.nullcontext():
        assert read_peer_key(mount / "worker.key", "worker").name == "node-2"


# ---------------------------------------------------------------- without keys


def run_broker(home: Path, *argv: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "broker", "--home", str(home), *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_cannot_be_listened_on_is_named_in_the_last_line(
    harness: KeyDesk, tmp_path: Path, host: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://{host}:{taken.getsockname()[1]}"
        code, last = run_broker(tmp_path / "h", "--curve-dir", str(harness.directory), "--back-tcp", address)
    assert code == 2
    assert last.startswith(f"broker: back_tcp: cannot listen on {address}: ")


@pytest.mark.parametrize("option", ["front", "back", "front-tcp", "back-tcp"])
def test_the_broker_does_not_listen_on_tcp_without_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert broker_cli.main(["--home", str(tmp_path), f"--{option}", "tcp://127.0.0.1:7001"]) == 2
    error = capsys.readouterr().err
    for part in (option.replace("-", "_"), "tcp://127.0.0.1:7001", "CURVE", "python -m broker keys init"):
        assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "jobs.sqlite").exists()


@pytest.mark.parametrize(
    ("main", "option", "role"), [(workers_cli.main, "back", "worker"), (edge_cli.main, "front", "edge")]
)
def test_workers_and_edges_do_not_connect_to_tcp_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: object, option: str, role: str
) -> None:
    argv = [
        "--home",
        str(tmp_path),
        f"--{option}",
        "tcp://127.0.0.1:7001",
        *(["--gpus", "cpu"] if role == "worker" else []),
    ]
    assert main(argv, {}) == 2  # type: ignore[operator]
    error = capsys.readouterr().err
    for part in (f"{option}: 'tcp://127.0.0.1:7001'", f"{role}.key", f"python -m broker keys add NAME --role {role}"):
        assert part in error
    assert error.count("\n") == 1


def test_nobody_connects_to_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_cli.main(["--home", str(tmp_path), "--front", "tcp://0.0.0.0:7001"], {}) == 2
    assert "an address to listen on" in capsys.readouterr().err


def test_a_workers_key_in_the_edges_place_is_refused_at_start(
    harness: KeyDesk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.add("node-2", "worker").rename(harness.directory / "edge.key")
    argv = ["--home", str(tmp_path), "--curve-dir", str(harness.directory), "--front", "tcp://127.0.0.1:7001"]
    assert edge_cli.main(argv, {}) == 2
    assert "is a worker's and not an edge's" in capsys.readouterr().err


def test_the_command_finds_the_directory_in_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(["init"], {"ZOETROPE_HOME": str(tmp_path)}) == 0
    assert (tmp_path / "curve/broker.key").exists()
    assert run_broker(tmp_path, "--back-tcp", "tcp://203.0.113.1:7002")[0] == 2  # not an address of this machine


@pytest.mark.parametrize(
    ("main", "option"), [(workers_cli.main, "back"), (edge_cli.main, "front"), (broker_cli.main, "back")]
)
@pytest.mark.parametrize("harm", ["open", "link"])
def test_no_process_uses_sockets_in_a_directory_that_others_could_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: object, option: str, harm: str
) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir(mode=0o700)
    if harm == "open":
        directory.chmod(0o770)
    else:
        directory = directory.rename(tmp_path / "real").with_name("sockets")
        directory.symlink_to(tmp_path / "real")
    argv = ["--home", str(tmp_path / "z"), f"--{option}", f"ipc://{directory}/s.sock"]
    argv += ["--gpus", "cpu"] if main is workers_cli.main else []
    arguments = (argv,) if main is broker_cli.main else (argv, {})
    assert main(*arguments) == 2  # type: ignore[operator]
    error = capsys.readouterr().err
    assert str(directory) in error
    assert error.count("\n") == 1

"""`python -m broker keys`: make, list and remove the CURVE keys of tcp endpoints. Secret keys go into files and nowhere else."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import zmq

from broker.runtime.curve_keys import BrokerKey, Role, is_name, read_allowed, read_broker, read_peer_key
from broker.runtime.settings import SettingsError, load, make_private_dir
from broker.settings import BrokerSettings

_DESCRIPTION = """\
Make, list and remove the CURVE keys that workers and edges on other machines need. Run it on the broker's machine, as the broker's user.
`init` makes the broker's own pair, once. `add` makes the pair of one machine's workers or edges, in a file that goes to that machine.
A running broker reads the list again by itself: a new key is good at once, a removed one is refused and its connections are dead from
then on. No secret key is ever printed. Exit codes: 0 done; 2 an option is wrong, or a file cannot be used.
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        flags = [
            f"--{name}={value}" for name in ("home", "curve-dir") if (value := getattr(options, name.replace("-", "_")))
        ]
        directory = load(BrokerSettings, "python -m broker keys", "broker", flags, environ).curve_path
        match options.command:
            case "init":
                lines = _init(directory)
            case "add":
                lines = _add(directory, options.name, options.role, here=options.here)
            case "list":
                lines = _list(directory)
            case _:
                lines = _remove(directory, options.name)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"broker keys: {error}\n")
        return 2
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _init(directory: Path) -> list[str]:
    """The broker's pair."""
    path = directory / "broker.key"
    for part in (directory, directory / "allowed", directory / "issued"):
        make_private_dir(part, "curve_dir")
    if path.exists():
        raise SettingsError(f"{path} exists; remove it first if all machines are to get new keys")
    public, secret = _new_pair()
    _write(
        path, (("public", public), ("secret", secret)), "The broker's CURVE key. Keep it secret, and on this machine."
    )
    return [
        f"{path} is made; its public key is {public}",
        "next: python -m broker keys add NAME --role worker (or edge), once for each machine",
    ]


def _add(directory: Path, name: str, role: Role, *, here: bool) -> list[str]:
    """A peer's pair and its entry in the list."""
    if not is_name(name):
        raise SettingsError(
            f"{name!r} is no name: letters, digits, _ and -, beginning with a letter or digit, at most 32"
        )
    broker = _broker_key(directory)
    allowed = directory / "allowed" / f"{name}.pub"
    issued = directory / f"{role}.key" if here else directory / "issued" / f"{name}.key"
    for part in (allowed.parent, issued.parent):
        make_private_dir(part, "curve_dir")
    for path in (allowed, issued):
        if path.exists():
            raise SettingsError(f"{path} exists; `python -m broker keys remove` it first, or choose another name")
    public, secret = _new_pair()
    fields = (("name", name), ("role", role), ("public", public))
    _write(
        issued,
        (*fields, ("secret", secret), ("broker", broker.public)),
        f"The CURVE key of the {role}s of {name}. Secret.",
    )
    try:
        _write(allowed, fields, f"Lets the {role}s of {name} speak to the broker.")
    except OSError:
        issued.unlink()
        raise
    if here:
        return [f"{issued} is made: this machine's {role}s use it"]
    return [
        f"{issued} is made; public key: {public}",
        f"copy it to {name} as <home>/curve/{role}.key (or <curve_dir>/{role}.key), mode 0600 in a directory of mode 0700,",
        f"over a channel that nobody else reads (scp), then delete it here: rm {issued}",
        *_prefix_note(name, role),
    ]


def _prefix_note(name: str, role: Role) -> list[str]:
    return [f"its workers will be named {name}.gpu-0 and so on"] if role == "worker" else []


def _list(directory: Path) -> list[str]:
    lines = [f"broker {_broker_key(directory).public}"]
    for path in sorted((directory / "allowed").glob("*.pub")):
        try:
            entry = read_allowed(path)
        except SettingsError as error:
            lines.append(f"unusable: {error}")
            continue
        waiting = "" if not (directory / "issued" / f"{entry.name}.key").exists() else " (its key is still in issued/)"
        lines.append(f"{entry.name} role={entry.role} {entry.public}{waiting}")
    return lines


def _remove(directory: Path, name: str) -> list[str]:
    """Take a peer off the list. Its key is worthless from then on, wherever it lies."""
    allowed = directory / "allowed" / f"{name}.pub"
    if not is_name(name) or not allowed.exists():
        raise SettingsError(f"there is no key named {name!r} in {allowed.parent}")
    lines = [f"{name} is removed: the broker refuses its key from now on"]
    with contextlib.suppress(SettingsError):
        entry = read_allowed(allowed)
        own = directory / f"{entry.role}.key"
        if own.exists() and read_peer_key(own, entry.role).public == entry.public:
            own.unlink()
    allowed.unlink()
    (directory / "issued" / f"{name}.key").unlink(missing_ok=True)
    return lines


def _broker_key(directory: Path) -> BrokerKey:
    path = directory / "broker.key"
    if not path.exists():
        raise SettingsError(f"{path} does not exist; make it with `python -m broker keys init`")
    return read_broker(path)


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def _write(path: Path, fields: Iterable[tuple[str, str]], comment: str) -> None:
    """A new file of mode 0600, whole or not at all. None of the values has a quote or a backslash. Raises `OSError`."""
    text = f"# {comment}\n" + "".join(f'{name} = "{value}"\n' for name, value in fields)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)  # unlike a rename, never over a file that appeared meanwhile
    finally:
        temporary.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker keys", description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="make the broker's pair")
    add = commands.add_parser("add", help="make the pair of one machine's workers or edges, and let it in")
    add.add_argument("name", metavar="NAME", help="name of the machine; its workers' names begin with it")
    add.add_argument("--role", choices=("worker", "edge"), required=True, help="what the key may be used as")
    add.add_argument(
        "--here", action="store_true", help="for this machine: put the key where the workers or edges of this home look"
    )
    remove = commands.add_parser("remove", help="refuse a key from now on")
    remove.add_argument("name", metavar="NAME")
    each = commands.add_parser("list", help="list the public keys and what they may be used as")
    for command in (init, add, remove, each):
        command.add_argument("--home", metavar="DIRECTORY", default="", help="as the broker's option")
        command.add_argument("--curve-dir", metavar="DIRECTORY", default="", help="as the broker's option")
    return parser

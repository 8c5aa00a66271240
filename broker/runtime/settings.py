"""Settings of a process: flag > environment > zoetrope.toml > default, each option written once, as a struct's field.

A settings struct is a frozen msgspec Struct whose fields are `Annotated[type, Meta(description="…", ge=…)]`. From the field `queue_limit`
come the flag `--queue-limit`, the variable `ZOETROPE_QUEUE_LIMIT`, the key `queue_limit` of the process's table in zoetrope.toml, the help
text and the row in docs/configuration.md. A field may be a struct that has options in turn: those of its fields that have a description. A
bad value is one sentence naming where it came from, the value and the rule.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from broker.runtime import environment
from broker.runtime.setting_rules import in_words

ENV_PREFIX = environment.PREFIX

#: Default address of an edge.
EDGE_PORT = 8000

#: Longest path of a unix socket, less the file name (sun_path is 108 bytes with its NUL).
_MAX_RUN_DIR = 90

#: A name, an IPv4 address, an interface, or an IPv6 address in brackets.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.%a-z]{2,60}\]")

S = TypeVar("S", bound="CommonSettings")


class SettingsError(Exception):
    """Error in the settings: a sentence for the operator; the process exits with 2."""


class CommonSettings(Struct, frozen=True, kw_only=True):
    """Settings that every process of one service must agree on."""

    home: Annotated[str, Meta(description="directory of the journal, artefacts and uploads", min_length=1)] = (
        "./.zoetrope"
    )
    run_dir: Annotated[
        str,
        Meta(
            description="directory of the sockets (mode 0700); default: <home>/run, or one below the temporary directory"
            " when that path is too long for a socket"
        ),
    ] = ""
    front: Annotated[
        str,
        Meta(
            description="endpoint between edges and broker; default: ipc in run_dir; on another machine than the broker's: its front_tcp"
        ),
    ] = ""
    back: Annotated[
        str,
        Meta(
            description="endpoint between workers and broker; default: ipc in run_dir; on another machine than the broker's: its back_tcp"
        ),
    ] = ""
    curve_dir: Annotated[
        str,
        Meta(
            description="directory (mode 0700) of the CURVE keys that tcp:// endpoints need (python -m broker keys); default: <home>/curve"
        ),
    ] = ""
    results_store: Annotated[
        str,
        Meta(
            description="object store of results and checkpoints, s3://BUCKET/PREFIX: workers send them there (inputs and previews go by"
            " depot still), edges serve them from there; keys, region and endpoint are the environment's (AWS_…); default: the depot's disk"
        ),
    ] = ""
    content_credentials: Annotated[
        str,
        Meta(
            description="sign the files of results as made by a model (C2PA): auto, where the extra c2pa is installed; on; off",
            pattern="^(auto|on|off)$",
        ),
    ] = "auto"
    signing_certificate: Annotated[
        str,
        Meta(
            description="PEM file of the certificates that content credentials are signed with, the signer's first; default: one that is"
            " made at the first start, in <home>/credentials, and that nobody's list of trust has"
        ),
    ] = ""
    signing_key: Annotated[
        str, Meta(description="PEM file (mode 0600) of the key of the first of signing_certificate")
    ] = ""
    log_level: Annotated[
        str, Meta(description="debug, info, warning or error", pattern="^(debug|info|warning|error)$")
    ] = "info"
    log_format: Annotated[
        str, Meta(description="how log lines are written: text, or json, one object a line", pattern="^(text|json)$")
    ] = "text"

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser().resolve()

    @property
    def artefacts_path(self) -> Path:
        return self.home_path / "artefacts"

    @property
    def uploads_path(self) -> Path:
        return self.home_path / "uploads"

    @property
    def curve_path(self) -> Path:
        """The directory of the CURVE keys."""
        return Path(self.curve_dir).expanduser().absolute() if self.curve_dir else self.home_path / "curve"

    @property
    def run_path(self) -> Path:
        """The directory of the sockets: short enough for sun_path, the same for every process with this home."""
        if self.run_dir:
            return Path(self.run_dir).expanduser().absolute()
        inside = self.home_path / "run"
        if len(os.fsencode(inside)) <= _MAX_RUN_DIR:
            return inside
        digest = hashlib.sha256(os.fsencode(self.home_path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"zoetrope-{os.getuid()}-{digest}"

    @property
    def front_endpoint(self) -> str:
        return self.front or f"ipc://{self.run_path}/front.sock"

    @property
    def back_endpoint(self) -> str:
        return self.back or f"ipc://{self.run_path}/back.sock"


def check_endpoint(name: str, endpoint: str) -> None:
    """Refuse what is neither an absolute ipc path nor a tcp address with a port. Raises `SettingsError` naming the option `name`."""
    if endpoint.startswith("tcp://"):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if not _HOST.fullmatch(host) or not port.isdecimal() or not 1 <= int(port[:6]) <= 65_535:
            raise SettingsError(
                f"{name}: {endpoint!r} must be tcp://ADDRESS:PORT, as tcp://10.0.0.1:7001 or tcp://[::1]:7001"
            )
        return
    if not endpoint.startswith("ipc:///"):
        raise SettingsError(
            f"{name}: {endpoint!r} must be ipc:// with an absolute path, or tcp://ADDRESS:PORT (which needs CURVE keys)"
        )


def make_private_dir(path: Path, name: str = "run_dir") -> None:
    """Make `path` with mode 0700, and refuse one that others may enter: access to a socket is the right to give orders.

    `name` is the option to blame in the `SettingsError`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{name}: {str(path)!r} cannot be made: {error.strerror}") from None
    # Not the target of a link: the link's owner can change it at any time.
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise SettingsError(f"{name}: {str(path)!r} is a link or a file; it must be a directory")
    if status.st_uid != os.getuid():
        raise SettingsError(f"{name}: {str(path)!r} belongs to another user")
    if status.st_mode & 0o077:
        # Not repaired: it was there before, and may be a directory that others need (/tmp, /run).
        raise SettingsError(f"{name}: {str(path)!r} can be entered by others; give it mode 0700 or choose another")


def make_socket_dir(name: str, given: str, endpoint: str) -> None:
    """Make and check the directory of an ipc endpoint, `given` as the option `name` or not at all: its owner can pass for the other side.

    Raises `SettingsError`.
    """
    if endpoint.startswith("ipc://"):
        make_private_dir(Path(endpoint.removeprefix("ipc://")).parent, name if given else "run_dir")


def load(
    kind: type[S], prog: str, table: str, argv: Sequence[str], environ: Mapping[str, str], description: str = ""
) -> S:
    """Fill `kind` from flags, environment and the toml file's top level and `[table]`. Raises `SettingsError`; `--help` exits."""
    options = {option.name: option for option in _options(kind)}
    parser = _parser(kind, prog, description)
    old_names = {name: old for old, name in environment.RENAMED.items() if name in options}
    flags = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    file_values = _read_toml(flags.pop("config", None), environ, table, options)
    if wrong := environment.unknown(environ, options):
        raise SettingsError(wrong)
    merged: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, option in options.items():
        for where, written, value in _sources(name, old_names.get(name), flags, environ, file_values):
            if value is not None and value != "":
                if written != name:
                    sys.stderr.write(f"{prog}: {where} is called {name} now, and is read until the next version\n")
                place = parts.setdefault(option.part, {}) if option.part else merged
                place[name] = _convert(option.hint, where, value)
                break
    types = get_type_hints(kind)
    return kind(**merged, **{part: types[part](**values) for part, values in parts.items()})


def _sources(
    name: str, old: str | None, flags: Mapping[str, Any], environ: Mapping[str, str], file_values: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    """(place in words, name there, value or None) where an option may stand, the one that counts first."""
    names = (name, old) if old else (name,)
    for one in names:
        yield f"--{one.replace('_', '-')}", one, flags.get(one)
    for one in names:
        yield ENV_PREFIX + one.upper(), one, environ.get(ENV_PREFIX + one.upper())
    for one in names:
        yield f"zoetrope.toml: {one}", one, file_values.get(one)


class _Option(Struct, frozen=True):
    """A setting: its type with its bounds, its default, and the struct among the settings' fields that holds it; "": the settings do."""

    name: str
    hint: Any
    default: Any
    part: str = ""


def _options(kind: type[Any], part: str = "") -> list[_Option]:
    """Every option of a settings struct, in the order written."""
    hints = get_type_hints(kind, include_extras=True)
    found: list[_Option] = []
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Struct):
            found += _options(hint, field.name)
        elif not part or _meta(hint).description:
            found.append(_Option(field.name, hint, field.default, part))
    return found


def _meta(hint: Any) -> Meta:
    return next((arg for arg in get_args(hint) if isinstance(arg, Meta)), Meta())


def _convert(hint: Any, where: str, value: Any) -> Any:
    base = get_args(hint)[0] if get_args(hint) else hint
    written = value
    if isinstance(value, str) and base is not str:
        lowered = value.strip().lower()
        if base is bool and lowered in ("yes", "on", "no", "off"):
            value = lowered in ("yes", "on")
        elif str(base).startswith("tuple"):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        raise SettingsError(f"{where}: {written!r} {in_words(hint)}") from None


def _parser(kind: type[Any], prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description or (kind.__doc__ or ""),
        epilog="Every option can also be set as ZOETROPE_<NAME> in the environment or as a key in zoetrope.toml; "
        "flags win, then the environment.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file (default: ./zoetrope.toml if it exists; ZOETROPE_CONFIG)"
    )
    for row in describe(kind):
        parser.add_argument(
            row.flag,
            dest=row.name,
            metavar=row.type.upper(),
            help=f"{row.help.replace('%', '%%')} ({row.env}; default: {row.default or 'none'})",
        )
        for old, name in environment.RENAMED.items():
            if name == row.name:
                parser.add_argument("--" + old.replace("_", "-"), dest=old, help=argparse.SUPPRESS)
    return parser


class OptionRow(Struct, frozen=True):
    """One option as help and documentation print it."""

    name: str
    flag: str
    env: str
    type: str
    default: str
    help: str


def describe(kind: type[Any]) -> list[OptionRow]:
    """Every option of a settings struct, in the order written."""
    rows = []
    for option in _options(kind):
        args = get_args(option.hint)
        base = args[0] if args else option.hint
        default = option.default if option.default is not msgspec.NODEFAULT else ""
        shown = ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)
        kind_name = "list" if str(base).startswith("tuple") else getattr(base, "__name__", str(base))
        rows.append(
            OptionRow(
                name=option.name,
                flag="--" + option.name.replace("_", "-"),
                env=ENV_PREFIX + option.name.upper(),
                type=kind_name,
                default=shown,
                help=_meta(option.hint).description or "",
            )
        )
    return rows


def read_config(path: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration file as a dict; empty when none was named and there is none here. Raises `SettingsError`."""
    named = path or environ.get(ENV_PREFIX + "CONFIG")
    file = Path(named or "zoetrope.toml")
    if not file.exists():
        if named:
            raise SettingsError(f"configuration file {named!r} does not exist")
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"configuration file {str(file)!r}: {error}") from None


#: Tables of zoetrope.toml that are not one process's options.
_OTHER_TABLES = {"broker", "workers", "launcher", "edge", "models"}


def _read_toml(path: str | None, environ: Mapping[str, str], table: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    config = read_config(path, environ)
    common = {field.name for field in msgspec.structs.fields(CommonSettings)}
    for key in config:
        if key not in _OTHER_TABLES and key not in common:
            raise SettingsError(
                f"zoetrope.toml: unknown key {key!r} at top level; known: {', '.join(sorted(common | _OTHER_TABLES))}"
            )
    own = config.get(table, {})
    if not isinstance(own, dict):
        raise SettingsError(f"zoetrope.toml: [{table}] must be a table")
    for key in own:
        if environment.RENAMED.get(key, key) not in fields:
            raise SettingsError(f"zoetrope.toml: unknown key {key!r} in [{table}]; known: {', '.join(sorted(fields))}")
    return {**{key: value for key, value in config.items() if key in common}, **own}

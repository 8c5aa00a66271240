"""`python -m http_edge keys`: make, list and remove API keys."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from broker.runtime.settings import SettingsError, load
from http_edge.auth.keys import KeyFileError, KeyRecord, hash_of, locked, new_key, read_keys, write_keys
from http_edge.base.settings import EdgeSettings

_DESCRIPTION = """\
Make, list and remove API keys. A key is printed once, when it is made; the file holds its hash. Running edges read the file again when it
changes. The file is that of --keys-file or of the setting keys_file, else <home>/keys.jsonl. Exit codes: 0 done; 2 an option is wrong.
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        settings = load(EdgeSettings, "python -m http_edge keys", "edge", [], environ)
        path = Path(options.keys_file or settings.keys_path or settings.home_path / "keys.jsonl").absolute()
        match options.command:
            case "add":
                _add(path, options)
            case "list":
                _list(path, as_json=options.json)
            case _:
                _remove(path, options.name, as_json=options.json)
    except (SettingsError, KeyFileError, OSError) as error:
        sys.stderr.write(f"http_edge keys: {error}\n")
        return 2
    if settings.keys_path is None:
        sys.stderr.write(f"note: edges ask for no keys until the setting keys_file is {path}\n")
    return 0


def _add(path: Path, options: argparse.Namespace) -> None:
    key, now = new_key(), time.time()
    made = {
        "name": options.name,
        "hash": hash_of(key),
        "tenant": options.tenant or options.name,
        "max_queued": options.max_queued,
        "max_running": options.max_running,
        "max_priority": options.max_priority,
        "loras": options.loras,
        "recipe": not options.no_recipe,
        "operator": options.operator,
        "created_at": round(now, 3),
        "expires_at": round(now + options.expires_days * 86_400, 3) if options.expires_days else 0.0,
    }
    try:
        record = msgspec.convert(made, KeyRecord)
    except msgspec.ValidationError as error:
        raise KeyFileError(str(error)) from None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path):
        records = read_keys(path) if path.exists() else []
        if any(other.name == record.name for other in records):
            raise KeyFileError(f"there is a key named {record.name} already; remove it first")
        write_keys(path, [*records, record])
    if options.json:
        _write({**_shown(record), "key": key})
    else:
        sys.stdout.write(f"{key}\n")


def _shown(record: KeyRecord) -> dict[str, Any]:
    """Return a key as it may be shown: all but its hash."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    del fields["hash"]
    return fields


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _list(path: Path, *, as_json: bool) -> None:
    records = read_keys(path) if path.exists() else []
    if as_json:
        _write([_shown(record) for record in records])
        return
    if not records:
        sys.stderr.write(f"no keys in {path}: `add NAME` makes one\n")
    for record in records:
        limits = f"max_queued={record.max_queued} max_running={record.max_running} max_priority={record.max_priority}"
        if record.loras is not None:
            limits += f" loras={','.join(record.loras)}"
        if not record.recipe:
            limits += " recipe=no"
        if record.operator:
            limits += " operator=yes"
        until = ""
        if record.expires_at:
            until = f" expires={datetime.fromtimestamp(record.expires_at, UTC).isoformat(timespec='seconds')}"
        sys.stdout.write(f"{record.name} tenant={record.tenant} {limits}{until}\n")


def _remove(path: Path, name: str, *, as_json: bool) -> None:
    if not path.exists():
        raise KeyFileError(f"there is no key named {name}")
    with locked(path):
        records = read_keys(path)
        kept = [record for record in records if record.name != name]
        if len(kept) == len(records):
            raise KeyFileError(f"there is no key named {name}")
        write_keys(path, kept)
    if as_json:
        _write({"name": name, "removed": True})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m http_edge keys", description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="make a key and print it, once")
    add.add_argument("name", metavar="NAME", help="name of the key, for the log and for removing it")
    add.add_argument("--tenant", metavar="TENANT", help="whose the jobs sent with it are (default: the key's name)")
    add.add_argument("--max-queued", type=int, default=0, metavar="N", help="jobs of the tenant that may wait; 0: any")
    add.add_argument("--max-running", type=int, default=0, metavar="N", help="that may run at once; 0: any")
    add.add_argument("--max-priority", type=int, default=9, metavar="N", help="highest priority, 0 to 9")
    add.add_argument("--loras", nargs="*", metavar="NAME", help="the LoRAs its jobs may name; not given: any")
    add.add_argument("--no-recipe", action="store_true", help="files of its jobs do not hold their recipe")
    add.add_argument("--operator", action="store_true", help="it may drain workers, and undrain them")
    add.add_argument("--expires-days", type=float, default=0.0, metavar="DAYS", help="days until it expires; 0: never")
    remove = commands.add_parser("remove", help="remove a key: it is refused from then on")
    remove.add_argument("name", metavar="NAME")
    each = commands.add_parser("list", help="list the keys and what they may do")
    for command in (add, remove, each):
        command.add_argument("--keys-file", metavar="FILE", help="the file of keys")
        command.add_argument("--json", action="store_true", help="write JSON")
    return parser

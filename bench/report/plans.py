"""A plan's fields as command-line options: each option is written once, as a field of a frozen struct with its description and bounds.

From `window: Annotated[int, Meta(description="…", ge=1, le=4096)] = 256` come `--window`, its help and its check; a flag that is on by
default becomes `--no-…`. A value out of bounds is one sentence naming the option, the value and the rule.
"""

from __future__ import annotations

import argparse
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from bench.report.errors import BadPlan

P = TypeVar("P", bound=Struct)


def add_options(parser: argparse.ArgumentParser, kind: type[Struct]) -> None:
    """Add an option for each field."""
    for name, kept, meta, default in _fields(kind):
        text = (meta.description or "").replace("%", "%%")
        if kept is bool:
            flag = f"--no-{_dashed(name)}" if default else f"--{_dashed(name)}"
            parser.add_argument(flag, dest=name, action="store_false" if default else "store_true", help=text)
        else:
            shown = "" if default == "" else " (default: %(default)s)"
            parser.add_argument(f"--{_dashed(name)}", type=kept, default=default, help=text + shown)


def build(kind: type[P], arguments: argparse.Namespace) -> P:
    """The plan that was requested. Raises `BadPlan`."""
    return check(kind(**{name: getattr(arguments, name) for name, *_ in _fields(kind)}))


def check(plan: P) -> P:
    """The plan itself, if all its values are within bounds. Raises `BadPlan`."""
    for name, _, meta, _ in _fields(type(plan)):
        value = getattr(plan, name)
        if meta.ge is not None and meta.le is not None and not meta.ge <= value <= meta.le:
            raise BadPlan(f"--{_dashed(name)}: {value} must be {meta.ge} to {meta.le}")
    return plan


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _fields(kind: type[Struct]) -> list[tuple[str, type, Meta, Any]]:
    """(name, type, description and bounds, default) of each field."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in msgspec.structs.fields(kind):
        kept, meta = get_args(hints[field.name])
        found.append((field.name, kept, meta, field.default))
    return found

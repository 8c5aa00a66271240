"""Reading the fields of a generation from a request: one reader for every API family, for JSON and forms alike.

Rules. A field may come under any of its names; two of them with different values contradict each other. A field of the request that stands
in `extra` means the field. A field that is not read is never silently dropped: `Policy` decides, for each family, whether it is refused or
among the job's warnings. Names without a value (null, empty) give none.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct

from broker.wire.jobspec import Scalar
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.body.fields import Reader, missing
from http_edge.body.media_text import media_texts
from http_edge.jobs.fields import ARGUMENTS, FIELDS, NAMES, UNSUPPORTED, Field
from http_edge.jobs.generation import Generation
from http_edge.jobs.loras import read_loras

#: Unknown names that are looked for among the known ones: each search takes a millisecond.
_HINTS = 5

#: Warnings a job keeps, at most.
MAX_WARNINGS = 50
_MAX_NAME_CHARS = 80

#: What a request may give in `extra` although it is a field: numbers and texts of the pipeline's call.
_IN_EXTRA = frozenset(name for name, field in FIELDS.items() if field.kind in ("integer", "number")) | {
    "negative_prompt"
}


class Policy(Struct, frozen=True, kw_only=True):
    """Treatment of fields that cannot be honoured, per API family."""

    #: Whether an unknown name is an error; else it is ignored with a warning.
    refuses_unknown: bool
    #: Whether a known wish that nothing here can grant, and a contradiction, is an error; else it is ignored with a warning.
    refuses_unsupported: bool
    #: Of two numbers that are a size, whether the first is the height.
    height_first: bool = False
    #: Fields that its requests cannot set: their names are unknown ones there.
    without: frozenset[str] = frozenset()
    #: Names without effect on what is drawn: no warning is made of them.
    silent: frozenset[str] = frozenset()
    #: Values that request nothing, besides null and what is empty.
    idle: tuple[Any, ...] = ()


class Reading(Struct, frozen=True, kw_only=True):
    """A generation, and what of the request was changed or is ignored."""

    generation: Generation
    warnings: tuple[str, ...] = ()


def read_generation(
    values: Mapping[str, Any],
    policy: Policy,
    *,
    own: Collection[str] = (),
    files: Collection[str] = (),
    place: str = "body",
) -> Reading:
    """Read a generation from a request's fields. Raises `EdgeError` naming field, value and rule.

    `own`: names that the caller reads itself, values and files; `files`: names of the files that came.
    """
    return _Reading(values, policy, frozenset(own), place).read(files)


class _Reading:
    """State of reading one request."""

    def __init__(self, values: Mapping[str, Any], policy: Policy, own: frozenset[str], place: str) -> None:
        self._policy = policy
        self._own = own
        self._place = place
        self._warnings: list[str] = []
        self._labels: dict[str, str] = {}
        self._values = dict(values)

    def read(self, files: Collection[str]) -> Reading:
        extra = self._arguments()
        found: dict[str, Any] = {}
        for field in FIELDS.values():
            if field.name not in self._policy.without and field.kind != "arguments":
                value = self._one(field)
                if value is not None:
                    found[field.name] = value
        if "prompt" not in found:
            raise missing(["prompt"], place=self._place)
        if found.get("seed") == -1:
            del found["seed"]
        self._normalise_size(found)
        self._judge_rest(files)
        generation = Generation(**found, extra=extra, labels=self._labels)
        return Reading(generation=generation, warnings=tuple(self._warnings[:MAX_WARNINGS]))

    # ------------------------------------------------------------ fields

    def _one(self, field: Field) -> Any:
        """The field's value under whichever of its names it came; None when absent."""
        first: Any = None
        label = ""
        for name in field.names:
            if name in self._own or self._values.get(name) is None:
                continue
            value = self._value(field, name)
            if value is None:
                continue
            if label and value != first:
                self._contradict(
                    label, name, f"{label} and {name} are two names of {field.name}, with different values"
                )
                continue
            if not label:
                first, label = value, name
        if label and label != field.name:
            self._labels[field.name] = label
        return first

    def _value(self, field: Field, name: str) -> Any:
        """The value under this name; None where there is none. Raises `EdgeError`."""
        reader = Reader(self._values, place=self._place)
        match field.kind:
            case "integer":
                return reader.integer(name, int(field.low), int(field.high))
            case "number":
                return reader.number(name, field.low, field.high)
            case "size":
                return reader.size(name, height_first=self._policy.height_first)
            case "aspect":
                return reader.aspect(name)
            case "loras":
                return read_loras(name, reader.raw(name), self._place)
            case "choice":
                return reader.choice(name, field.choices)
            case "flag":
                return reader.flag(name)
            case "media":
                return media_texts(name, self._values.get(name), place=self._place)
        text = reader.text(name, max_chars=field.max_chars, min_chars=1 if field.name == "prompt" else 0)
        # An empty negative prompt is one; any other empty text is an absent one.
        return text if text or field.name == "negative_prompt" else None

    def _arguments(self) -> dict[str, Scalar]:
        """The pipeline's further arguments. Fields among them are moved to where they belong."""
        if "extra" in self._policy.without:
            return {}
        arguments = Reader(self._values, place=self._place).scalars("extra")
        for name in [name for name in arguments if name in _IN_EXTRA and arguments[name] is not None]:
            value = arguments.pop(name)
            there = self._values.get(name)
            if there is None:
                self._values[name] = value
            elif there != value:
                self._contradict(name, f"extra.{name}", f"{name} and extra.{name} have different values")
        return arguments

    def _normalise_size(self, found: dict[str, Any]) -> None:
        """`size` wins over width and height, as in the servers whose requests we take."""
        if "size" not in found:
            return
        label = self._labels.get("size", "size")
        for name, side in zip(("width", "height"), found["size"], strict=True):
            if found.pop(name, side) != side:
                sent = self._labels.pop(name, name)
                self._contradict(label, sent, f"{label} and {sent} contradict each other")

    # ------------------------------------------------------------ fields that are not read

    def _judge_rest(self, files: Collection[str]) -> None:
        """Refuse fields of the request that are not read, or warn of them. Raises `EdgeError`."""
        unknown: list[str] = []
        for name in self._unread():
            if name in UNSUPPORTED:
                self._unsupported(name, self._values[name], "is not supported: no model of this service takes it")
            elif self._policy.refuses_unknown:
                unknown.append(name)
            else:
                hint = self._hint(name) if len(unknown) < _HINTS else ""
                unknown.append(name)
                self._warn(f"{name[:_MAX_NAME_CHARS]}: unknown field, ignored{hint}")
        for name in files:
            if name not in self._own:
                self._unsupported(name, "a file", "is not supported: nothing here reads a file of this name")
        if unknown and self._policy.refuses_unknown:
            reasons = "; ".join(
                f"{name[:_MAX_NAME_CHARS]}: unknown field{self._hint(name)}" for name in unknown[:_HINTS]
            )
            value = self._values[unknown[0]]
            raise EdgeError(
                "invalid_value",
                f"{reasons}; its value: {shown(value)}" if len(unknown) == 1 else reasons,
                param=unknown[0][:_MAX_NAME_CHARS],
                params=[name[:_MAX_NAME_CHARS] for name in unknown[:_HINTS]],
                value=value,
                place=self._place,
            )

    def _unread(self) -> Iterator[str]:
        policy = self._policy
        for name, value in self._values.items():
            is_field = NAMES.get(name, name if name in FIELDS else "") not in ("", *policy.without)
            if is_field or name in self._own or name in policy.silent or _is_empty(value, policy.idle):
                continue
            yield name

    def _hint(self, name: str) -> str:
        known = [one for one, field in NAMES.items() if field not in self._policy.without]
        close = difflib.get_close_matches(name[:_MAX_NAME_CHARS].lower(), [*known, *self._own], n=1, cutoff=0.7)
        return f"; did you mean {close[0]}?" if close else ""

    def _contradict(self, kept: str, dropped: str, message: str) -> None:
        if self._policy.refuses_unsupported:
            raise EdgeError(
                "invalid_value",
                f"{message}: {shown(self._values.get(kept))} and {shown(self._values.get(dropped))}",
                param=kept,
                params=(kept, dropped),
                value=self._values.get(kept),
                place=self._place,
            )
        self._warn(f"{dropped}: ignored, as {message}")

    def _unsupported(self, name: str, value: Any, rule: str) -> None:
        if self._policy.refuses_unsupported:
            raise invalid(name[:_MAX_NAME_CHARS], value, rule, place=self._place)
        self._warn(f"{name[:_MAX_NAME_CHARS]}: not supported by this service, ignored")

    def _warn(self, text: str) -> None:
        self._warnings.append(text)


def _is_empty(value: Any, idle: tuple[Any, ...]) -> bool:
    if isinstance(value, str):
        return not value.strip() or value in idle
    if isinstance(value, list | dict):
        return not value
    return value is None or value in idle


def arguments_of(generation: Generation) -> dict[str, Scalar]:
    """All further arguments of the pipeline's call: those that are fields, and `extra`."""
    given = {name: getattr(generation, name) for name in ARGUMENTS}
    return {**{name: value for name, value in given.items() if value is not None}, **generation.extra}

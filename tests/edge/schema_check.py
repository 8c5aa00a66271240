"""Whether a value is what a JSON Schema says: with the `jsonschema` package where there is one, else by the keywords that ours use."""

from __future__ import annotations

import re
from typing import Any

try:
    import jsonschema
except ImportError:
    jsonschema = None

_KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def faults(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What is wrong with the value, in words; empty when nothing is."""
    if jsonschema is not None:
        whole = {**schema, "components": document["components"]}
        found = jsonschema.Draft202012Validator(whole).iter_errors(value)
        return [f"{fault.json_path}: {fault.message[:200]}" for fault in found]
    return _faults(value, schema, document, "$")


def resolved(node: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """What a reference means; any other node is itself."""
    while "$ref" in node:
        target: Any = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        node = target
    return node


def _faults(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str) -> list[str]:
    schema = resolved(schema, document)
    if "anyOf" in schema and all(_faults(value, option, document, at) for option in schema["anyOf"]):
        return [f"{at}: {value!r} is none of {schema['anyOf']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is not of {schema['enum']}"]
    if "const" in schema and value != schema["const"]:
        return [f"{at}: {value!r} is not {schema['const']!r}"]
    kind = schema.get("type")
    if kind and (not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [f"{at}: {value!r} is no {kind}"]
    return [*_bounds(value, schema, at), *_members(value, schema, document, at)]


def _bounds(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    found = []
    if isinstance(value, str):
        found += [f"{at}: {value!r} is too short"] if len(value) < schema.get("minLength", 0) else []
        found += [f"{at}: {value!r} is too long"] if len(value) > schema.get("maxLength", len(value)) else []
        found += [f"{at}: {value!r} does not match"] if not re.search(schema.get("pattern", ""), value) else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += [f"{at}: {value} is too small"] if value < schema.get("minimum", value) else []
        found += [f"{at}: {value} is too large"] if value > schema.get("maximum", value) else []
    return found


def _members(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str) -> list[str]:
    found = []
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += _faults(item, schema["items"], document, f"{at}[{index}]")
    if isinstance(value, dict):
        found += [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        known, further = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            inner = known.get(name, further)
            found += _faults(item, inner, document, f"{at}.{name}") if isinstance(inner, dict) else []
    return found

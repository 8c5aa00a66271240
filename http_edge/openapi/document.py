"""The OpenAPI 3.1 document: from the operations of the application's routes, the structs of their bodies, and the table of errors.

An operation's errors are described as `ErrorResponses` answers them on its path, so the two cannot differ. HEAD goes where
GET goes, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from broker.wire.terms import WebhookEvent
from http_edge.api.common.job_files import WARNINGS_HEADER
from http_edge.api.common.schema_common import Event
from http_edge.auth.access import OPEN_PATHS
from http_edge.base.error_table import TABLE, Kind
from http_edge.base.errors import ErrorResponses
from http_edge.http.operation import EVENTS, FILES, JSON, Answer, Body, Operation, Param
from http_edge.jobs.fields import FIELDS

#: What any request can meet.
_ALWAYS: tuple[Kind, ...] = (
    "bad_header",
    "misdirected",
    "method_not_allowed",
    "too_large",
    "headers_too_large",
    "internal",
)
#: What any request that changes something can meet, any POST, and any that needs a key.
_CHANGING: tuple[Kind, ...] = ("forbidden",)
_POSTED: tuple[Kind, ...] = ("in_flight", "request_timeout")
_LOCKED: tuple[Kind, ...] = ("unauthorized",)

#: Event of a webhook -> what it says.
_EVENTS: dict[WebhookEvent, str] = {
    "started": "A job has started",
    "completed": "A job has completed",
    "failed": "A job has failed",
    "cancelled": "A job was cancelled",
    "promise_broken": "The promised end of a job was moved",
    "draft_ready": "The draft of a job is ready, and waits to be committed",
    "parked": "A running job was parked",
    "resumed": "A parked job goes on",
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`, `wait=SECONDS` (up to 60), or both with a comma.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "One key, one job, however often the request is sent: up to 255 printable ASCII characters, bare or quoted.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": r'^\s*("([ !#-\[\]-~]|\\["\\])+"|[!#-~]([ !#-~]*[!#-~])?)\s*$',
        },
    },
}

_HEADERS: dict[str, dict[str, Any]] = {
    "RequestId": {"description": "Names this request in the service's log.", "schema": {"type": "string"}},
    "RetryAfter": {"description": "Seconds after which to ask again, at most 120.", "schema": {"type": "integer"}},
    "Location": {"description": "Where the job is.", "schema": {"type": "string"}},
    "Warnings": {
        "description": "Of a job's file: what of its request was changed or ignored, a JSON list of sentences in ASCII; "
        "absent where nothing was.",
        "schema": {"type": "string"},
    },
}

_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service has some."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def document(operations: Sequence[Operation], families: ErrorResponses, version: str, *, keys: bool) -> dict[str, Any]:
    """The document of an application with these operations, of these families; `keys`: whether it requires API keys.

    Raises `KeyError` when an answer links to an operation that is not there.
    """
    by_id = {operation.id: operation for operation in operations}
    schemas = _Schemas(_types(operations, families))
    errors: dict[str, dict[str, Any]] = {}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, by_id, schemas, families, errors
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zoetrope",
            "version": version,
            "description": "Video and image generation for a pool of GPUs. HEAD goes wherever GET goes; a slash at the end of a "
            "path makes no difference. The native API refuses fields that are not known; the others ignore them, with a warning where "
            "their answers have a place for one.",
        },
        "servers": [{"url": "/"}],
        # Without a key ring no key is required, and one that is sent is ignored.
        "security": [{"bearer": []}, {"apiKey": []}, *([] if keys else [{}])],
        "tags": [
            {"name": tag.name, "description": tag.about}
            for tag in dict.fromkeys(operation.tag for operation in operations)
        ],
        "paths": paths,
        "webhooks": {f"job.{event}": {"post": _webhook(event, schemas)} for event in _EVENTS},
        "components": {
            "schemas": schemas.components,
            "responses": dict(sorted(errors.items())),
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


# ---------------------------------------------------------------- schemas


class _Schemas:
    """Schemas of types; those of structs stand in `components`."""

    def __init__(self, types: Iterable[Any]) -> None:
        self._types = list({repr(kind): kind for kind in types}.values())
        made, components = msgspec.json.schema_components(self._types, ref_template="#/components/schemas/{name}")
        self._schemas = {repr(kind): _portable(schema) for kind, schema in zip(self._types, made, strict=True)}
        self.components: dict[str, Any] = {name: _portable(schema) for name, schema in sorted(components.items())}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type, a reference for a struct."""
        schema: dict[str, Any] = self._schemas[repr(kind)]
        return schema

    def form_of(self, body: Body, *, files: bool) -> dict[str, Any]:
        """The media type object of a form, in which some fields may be files: its schema, and how lists and objects are written."""
        name = f"{body.type.__name__}{'Form' if files else 'Urlencoded'}"
        schema = msgspec.json.decode(msgspec.json.encode(self.components[body.type.__name__]))
        fields: dict[str, Any] = schema["properties"]
        for field in fields:
            fields[field] = _in_form(field, fields[field])
        encoding = {field: how for field, sent in fields.items() if (how := _ENCODINGS.get(_kind(sent)))}
        file: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
        for field, many in body.files.items() if files else ():
            about = {key: value for key, value in fields.get(field, {}).items() if key == "description"}
            fields[field] = {**about, **({"anyOf": [file, {"type": "array", "items": file}]} if many else file)}
            encoding.pop(field, None)
        self.components[name] = {**schema, "title": name}
        media: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        return media | ({"encoding": encoding} if encoding else {})


#: How lists and objects are written in forms: "a,b" and `name[key]=value`.
_ENCODINGS: dict[str, dict[str, Any]] = {
    "array": {"style": "form", "explode": False},
    "object": {"style": "deepObject", "explode": True},
}
#: Lists that may be one text with commas.
_JOINED = ("webhook_events", *FIELDS["size"].names)


def _in_form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema in a form, which has neither null nor, but for a few, lists that are no files."""
    options = [
        option
        for option in schema.get("anyOf", ())
        if option.get("type") != "null" and (option.get("type") != "array" or name in _JOINED)
    ]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default" if options else "")}
    return {**rest, **(options[0] if len(options) == 1 else {"anyOf": options})} if options else rest


def _kind(schema: dict[str, Any]) -> str:
    """Whether a form's field may be a list or an object; "" for neither."""
    options = schema.get("anyOf", [schema])
    kinds = {"object" if "$ref" in option else option.get("type", "") for option in options}
    return next((kind for kind in _ENCODINGS if kind in kinds), "")


def _types(operations: Iterable[Operation], families: ErrorResponses) -> Iterator[Any]:
    yield Event
    yield from (family.body for family in families.families)
    for operation in operations:
        yield from (param.type for param in operation.params)
        if operation.body:
            yield operation.body.type
        for answer in operation.answers.values():
            yield from (kind for kind in answer.types if kind is not bytes)


def _portable(schema: Any) -> Any:
    """The schema with patterns as JSON Schema has them (ECMA-262; ours end as Python's do), and texts of "this or null" at the top."""
    if isinstance(schema, dict):
        made: dict[str, Any] = {
            name: value.replace("\\Z", "$") if name == "pattern" and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
        for member in made.get("anyOf", ()):
            for name in ("description", "examples"):
                if name in member and "$ref" not in member:
                    made.setdefault(name, member.pop(name))
        return made
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


# ---------------------------------------------------------------- operations


def _operation(
    operation: Operation,
    by_id: Mapping[str, Operation],
    schemas: _Schemas,
    families: ErrorResponses,
    errors: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    responses = {str(status): _answer(status, answer, by_id, schemas) for status, answer in operation.answers.items()}
    for status in _statuses(operation, families):
        if str(status) not in responses:
            responses[str(status)] = _error(families, operation.path, status, schemas, errors)
    described: dict[str, Any] = {
        "tags": [operation.tag.name],
        "operationId": operation.id,
        "summary": operation.summary,
        **({"description": operation.about} if operation.about else {}),
        **({"deprecated": True} if operation.deprecated else {}),
        **({"security": []} if operation.path in OPEN_PATHS else {}),
    }
    parameters = [_parameter(param, schemas) for param in operation.params]
    parameters += [{"$ref": "#/components/parameters/Prefer"}] if operation.prefer else []
    parameters += [{"$ref": "#/components/parameters/IdempotencyKey"}] if operation.keyed else []
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = _body(operation.body, schemas)
    return {**described, "responses": dict(sorted(responses.items()))}


def _parameter(param: Param, schemas: _Schemas) -> dict[str, Any]:
    about = {"description": param.about} if param.about else {}
    return {
        "name": param.name,
        "in": param.place,
        "required": param.required,
        **about,
        "schema": schemas.of(param.type),
    }


def _body(body: Body, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if body.one_of:
        schemas.components[body.type.__name__]["anyOf"] = [{"required": [name]} for name in body.one_of]
    if body.json:
        content[JSON] = {"schema": schemas.of(body.type), **_example(body, schemas)}
    if body.forms:
        content["multipart/form-data"] = schemas.form_of(body, files=True)
    if body.forms and body.json:
        content["application/x-www-form-urlencoded"] = schemas.form_of(body, files=False)
    return {"required": body.required, "content": content}


def _example(body: Body, schemas: _Schemas) -> dict[str, Any]:
    """The smallest body, where the fields that must be there have examples: a reader would else start from every field and every alias."""
    schema = schemas.components[body.type.__name__]
    selected = [
        *schema.get("required", ()),
        *(name for name in body.one_of[:1] if name not in schema.get("required", ())),
    ]
    found = {name: one for name in selected for one in schema["properties"][name].get("examples", ())[:1]}
    return {"example": found} if found and len(found) == len(selected) else {}


def _answer(status: int, answer: Answer, by_id: Mapping[str, Operation], schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.about, "headers": _headers(status, answer.media)}
    content = {media: _content(media, answer, schemas) for media in answer.media if answer.types}
    if content:
        described["content"] = content
    if answer.links:
        described["links"] = {name: _link(by_id[name], answer) for name in answer.links}
    return described


def _link(operation: Operation, answer: Answer) -> dict[str, Any]:
    """Build the OpenAPI link from an answer to an operation on its object."""
    own = next(param for param in operation.params if param.name in ("id", "task_id"))
    member = next(member_name for member_name in ("id", "task_id") if member_name in answer.types[0].__struct_fields__)
    return {"operationId": operation.id, "parameters": {f"{own.place}.{own.name}": f"$response.body#/{member}"}}


def _content(media: str, answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    kinds = [kind for kind in answer.types if kind is not bytes]
    # Of a stream of events OpenAPI 3.1 has no schema: one of the text would be taken for that of each event.
    if media == EVENTS or (media != JSON and not media.startswith("text/") and "metrics" not in media):
        return {}
    found = [schemas.of(kind) for kind in kinds]
    if media.startswith("text/") and not all("$ref" not in schema for schema in found):
        return {"schema": {"type": "string"}}
    return {"schema": found[0] if len(found) == 1 else {"anyOf": found}} if found else {}


def _headers(status: int, media: Sequence[str] = ()) -> dict[str, Any]:
    names = {"x-request-id": "RequestId"}
    if status == 202:
        names |= {"Location": "Location", "Retry-After": "RetryAfter"}
    if status in (429, 503):
        names |= {"Retry-After": "RetryAfter"}
    if any(kind in FILES for kind in media):
        names[WARNINGS_HEADER] = "Warnings"
    return {name: {"$ref": f"#/components/headers/{key}"} for name, key in names.items()}


def _webhook(event: WebhookEvent, schemas: _Schemas) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "operationId": f"on{event.title().replace('_', '')}",
        "summary": _EVENTS[event],
        "description": "Signed after Standard Webhooks. `type` names what the job draws: `video."
        + event
        + "`, or `image.` or `job.`.",
        "security": [],
        "parameters": [
            {"name": "webhook-id", "in": "header", "required": True, "schema": text},
            {"name": "webhook-timestamp", "in": "header", "required": True, "schema": text},
            {"name": "webhook-signature", "in": "header", "required": True, "schema": text},
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": schemas.of(Event)}}},
        "responses": {
            "2XX": {"description": "It was received."},
            "410": {"description": "The receiver wants no more of this job."},
            "default": {"description": "It is sent again, for up to four days."},
        },
    }


# ---------------------------------------------------------------- errors


def _kinds(operation: Operation) -> set[Kind]:
    return {
        *operation.errors,
        *_ALWAYS,
        *(_CHANGING if operation.method != "GET" else ()),
        *(_POSTED if operation.method == "POST" else ()),
        *(() if operation.path in OPEN_PATHS else _LOCKED),
    }


def _statuses(operation: Operation, families: ErrorResponses) -> list[int]:
    """Statuses of an operation's errors. Those that its family answers with 200 are in its good answers."""
    found = {families.status_of(kind, operation.path) for kind in _kinds(operation)}
    return sorted(status for status in found if status >= 400)


def _error(
    families: ErrorResponses, path: str, status: int, schemas: _Schemas, errors: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A reference to the errors of this status of the path's family."""
    family = families.family_of(path)
    name = f"{family.name}_{status}"
    if name not in errors:
        kinds = [kind for kind in TABLE if families.status_of(kind, path) == status]
        errors[name] = {
            "description": f"{HTTPStatus(status).phrase}. Codes: {', '.join(f'`{kind}`' for kind in kinds)}.",
            "headers": _headers(status),
            "content": {family.media_type: {"schema": schemas.of(family.body)}},
        }
    return {"$ref": f"#/components/responses/{name}"}

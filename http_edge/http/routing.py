"""Routes as values: one path, one handler a method, so that 405 can name every method a path has; and the table that finds them.

The table answers as a scan over all routes would: the first that has path and method counts, else the first that has the path. It scans
only those that begin with the same words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from http_edge.base.error_table import Kind
from http_edge.base.errors import EdgeError
from http_edge.http.operation import Handler, Operation, operation_of

#: Methods that change nothing, unless a route declares it.
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))

#: Errors of operations for which clients take turns.
_TURN: tuple[Kind, ...] = ("too_many_requests",)

#: Longest part of an unknown parameter's name that an error repeats.
_MAX_NAME_CHARS = 80

_CONVERTOR = re.compile(r"\{(\w+)(?::\w+)?\}")


class EdgeRoute(Route):
    """A path and its handlers by method, each with its operation. Parameters are text, of one segment or (`:path`) of several."""

    def __init__(
        self, path: str, handlers: dict[str, Handler], *, alone: bool, get_changes: bool, expensive_get: bool
    ) -> None:
        self._document_path = _CONVERTOR.sub(r"{\1}", path)
        self.handlers = dict(handlers)
        #: The operations, as the OpenAPI document has them: without HEAD, and without converters in paths.
        self.operations = tuple(
            self._operation(method, handler, _TURN if expensive_get and method == "GET" else ())
            for method, handler in handlers.items()
        )
        if "GET" in handlers:
            self.handlers["HEAD"] = handlers["GET"]
        #: The methods that change something: what web pages may not request (`web_pages`).
        self.changing: Collection[str] = frozenset(self.handlers) - (frozenset() if get_changes else _SAFE)
        #: The methods whose handlers take long enough that clients take turns for them (`read_turns`).
        self.expensive: Collection[str] = ("GET", "HEAD") if expensive_get else ()
        #: Whether a method that this route does not have is 405, although a route with a parameter could match the path.
        self.alone = alone
        #: Whether a parameter of the query that the operation does not declare is refused (`check_query`), or means nothing.
        self.strict_query = False
        self._is_fixed = "{" not in path
        #: Whether a parameter takes what is left of a path, whatever that is.
        self.is_open = ":path}" in path
        super().__init__(path, self.dispatch, methods=sorted(self.handlers), name=path)
        self._match = self.path_regex.match

    def _operation(self, method: str, handler: Handler, errors: tuple[Kind, ...]) -> Operation:
        declared = operation_of(handler)
        return msgspec.structs.replace(
            declared, method=method, path=self._document_path, errors=(*declared.errors, *errors)
        )

    async def dispatch(self, request: Request) -> Response:
        """Answer with the method's handler."""
        return await self.handlers[request.method](request)

    def refuse_unknown_query(self) -> None:
        """Have parameters of the query that an operation does not declare refused from now on, as its document then declares."""
        self.strict_query = True
        self.operations = tuple(
            one
            if "invalid_value" in one.errors
            else msgspec.structs.replace(one, errors=(*one.errors, "invalid_value"))
            for one in self.operations
        )

    def check_query(self, method: str, query: QueryParams) -> None:
        """Raise `EdgeError` for the first parameter of a query that the method's operation does not declare."""
        routed = "GET" if method == "HEAD" else method
        known = [
            param.name
            for one in self.operations
            if one.method == routed
            for param in one.params
            if param.place == "query"
        ]
        unknown = next((name for name in query if name not in known), None)
        if unknown is None:
            return
        close = difflib.get_close_matches(unknown[:_MAX_NAME_CHARS].lower(), known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
        raise EdgeError(
            "invalid_value",
            f"{unknown[:_MAX_NAME_CHARS]}: unknown parameter of the query; {hint}",
            param=unknown[:_MAX_NAME_CHARS],
            value=query[unknown],
            place="query",
        )

    def params_of(self, path: str) -> dict[str, str] | None:
        """The parameters in a path; None when the path is not of this route."""
        if self._is_fixed:
            return {} if path == self.path else None
        match = self._match(path)
        return None if match is None else match.groupdict()


def route(
    path: str, *, alone: bool = False, get_changes: bool = False, expensive_get: bool = False, **handlers: Handler
) -> EdgeRoute:
    """A path and its handlers by method; HEAD goes where GET goes.

    `get_changes`: GET changes something, as another server's API has it. `expensive_get`: clients take turns for GET.
    Raises `TypeError` for a handler that declares no operation.
    """
    return EdgeRoute(path, handlers, alone=alone, get_changes=get_changes, expensive_get=expensive_get)


def operations_of(routes: Iterable[BaseRoute]) -> list[Operation]:
    """The operations of an application's routes."""
    return [one for route in routes if isinstance(route, EdgeRoute) for one in route.operations]


def base_url(request: Request, public_url: str) -> str:
    """Return the base of links to this service, without a last slash: its public address, else that of the request."""
    if public_url:
        return public_url.rstrip("/")
    # As `request.base_url` has it, at a tenth of its cost, which status reads would notice.
    scope = request.scope
    host = next((value for name, value in scope["headers"] if name == b"host"), b"localhost")
    return f"{scope['scheme']}://{host.decode('latin-1')}"


class RouteTable:
    """Routes by the first words of their paths."""

    def __init__(self, routes: Iterable[EdgeRoute]) -> None:
        self._all = list(routes)
        heads = {head for one in self._all if (head := _fixed_head(one.path)) is not None}
        #: A path whose head no route has can only be one of those that begin with a parameter.
        self._others = [one for one in self._all if _fixed_head(one.path) is None]
        self._by_head = {
            head: [one for one in self._all if _fixed_head(one.path) in (None, head)] for head in sorted(heads)
        }

    def find(self, path: str, method: str) -> tuple[EdgeRoute, dict[str, str]] | None:
        """The route for a request and the parameters in its path; one without the method when no other has it; None: no such path."""
        other = None
        for one in self._by_head.get(_head(path), self._others):
            params = one.params_of(path)
            if params is None:
                continue
            if method in one.handlers or one.alone:
                return one, params
            if len(params) == 1 and one.is_open and "/" in next(iter(params.values())):
                # `/v1/models/a/b/predictions`: any path would match, so that a match does not show whether it is one.
                continue
            other = other or (one, params)
        return other


def _head(path: str) -> str:
    """The first two segments of a path, by which routes are grouped before they are matched: "/v1/jobs"."""
    end = path.find("/", path.find("/", 1) + 1)
    return path if end <= 0 else path[:end]


def _fixed_head(path: str) -> str | None:
    """The first segments of a path; None when there is a parameter among them."""
    head = _head(path)
    return None if "{" in head else head

"""Recipe and content credentials of a result's file."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from broker.runtime.content_credentials import GENERATED
from http_edge.api.common import schema_service as schema
from http_edge.api.native.jobs_api import POLICY
from http_edge.base.errors import invalid
from http_edge.body.fields import missing
from http_edge.body.forms import Fields, read_fields
from http_edge.body.json_body import json_response
from http_edge.body.spool import Spool
from http_edge.http.operation import BROKER, FORM, Answer, Body, Tag, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.recipes import obstacles, read_recipe
from http_edge.jobs.service import JobService

_TAG = Tag("Recipes", "What a file was drawn with.")

#: How old the view of the workers may be.
_FRESH_S = 1.0


class RecipesApi:
    """Handler of recipes."""

    def __init__(self, calls: JobService, spool: Spool) -> None:
        self._calls = calls
        self._spool = spool

    def routes(self) -> list[EdgeRoute]:
        return [route("/v1/recipe", POST=self.read), route("/v1/credentials", POST=self.read_credentials)]

    @operation(
        "readRecipe",
        _TAG,
        body=Body(type=schema.RecipeRequest, json=False, files={"file": False}),
        answers={200: Answer(about="The recipe.", types=(schema.RecipeAnswer,))},
        errors=(*FORM, *(kind for kind in BROKER if kind not in FORM)),
    )
    async def read(self, request: Request) -> Response:
        """Read what a PNG, JPEG, WebP or MP4 of this service was drawn with.

        `request` is the body of a `POST /v1/jobs` that draws it again. `differences` are the reasons why it would not be the same picture.
        """
        async with await read_fields(request) as fields:
            path = _file(fields)
            recipe = await self._spool.in_thread(lambda: read_recipe("file", path))
        pool = await self._calls.catalogue.pool(_FRESH_S)
        found = list(obstacles(recipe, pool.workers, POLICY))
        return json_response(
            schema.RecipeAnswer(
                object="recipe",
                request=recipe.request,
                repeatable=not found,
                differences=found,
                pipeline=recipe.pipeline or None,
                used=recipe.used,
                inputs={role: list(files) for role, files in recipe.inputs.items()},
                versions=recipe.versions,
            )
        )

    @operation(
        "readCredentials",
        _TAG,
        body=Body(type=schema.RecipeRequest, json=False, files={"file": False}),
        answers={200: Answer(about="The content credentials.", types=(schema.CredentialsAnswer,))},
        errors=(*FORM, "unsupported"),
    )
    async def read_credentials(self, request: Request) -> Response:
        """Check the content credentials (C2PA) of a PNG, JPEG, WebP or MP4.

        `valid`: the file is as it was signed, by a signer that this service trusts; `untrusted`: the same by another; `invalid`: it was
        changed since, or its credentials do not hold. Files of any maker are read. A file without credentials is refused (400).
        """
        async with await read_fields(request) as fields:
            path = _file(fields)
            found = await self._spool.in_thread(lambda: self._calls.credentials.read("file", path))
        return json_response(
            schema.CredentialsAnswer(
                object="credentials",
                state=found.state,
                failures=list(found.failures),
                generated=found.source_type in GENERATED,
                source_type=found.source_type or None,
                issuer=found.issuer or None,
                signer=found.signer or None,
                generator=found.generator or None,
                unsigned_sha256=found.unsigned_sha256 or None,
                recipe=found.recipe,
            )
        )


def _file(fields: Fields) -> Path:
    """The file that a form brings. Raises `EdgeError`."""
    upload = fields.upload("file")
    if upload is not None:
        return upload.path
    if fields.values.get("file") is not None:
        raise invalid("file", fields.values["file"], "is not a file; send it as multipart/form-data")
    raise missing(["file"])

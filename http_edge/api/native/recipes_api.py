"""Recipe of a result's file: `/v1/recipe` answers the request that draws it again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common import schema_jobs as schema
from http_edge.api.native.jobs_api import POLICY
from http_edge.base.errors import invalid
from http_edge.body.fields import missing
from http_edge.body.forms import read_fields
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
        """The route."""
        return [route("/v1/recipe", POST=self.read)]

    @operation(
        "readRecipe",
        _TAG,
        body=Body(type=schema.RecipeRequest, json=False, files={"file": False}),
        answers={200: Answer(about="The recipe.", types=(schema.RecipeAnswer,))},
        errors=(*FORM, *(kind for kind in BROKER if kind not in FORM)),
    )
    async def read(self, request: Request) -> Response:
        """Read what a PNG, JPEG, WebP or MP4 of this service was drawn with.

        `request` is the body of a `POST /v1/jobs` that draws it again. `differences` says why it would not be the same picture.
        """
        async with await read_fields(request) as fields:
            upload = fields.upload("file")
            if upload is None:
                if fields.values.get("file") is not None:
                    raise invalid("file", fields.values["file"], "is not a file; send it as multipart/form-data")
                raise missing(["file"])
            path = upload.path
            recipe = await self._spool.in_thread(lambda: read_recipe("file", path))
        pool = await self._calls.pool(_FRESH_S)
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

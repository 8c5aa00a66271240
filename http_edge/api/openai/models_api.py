"""The models, as OpenAI's list shows them, with what vLLM's and SGLang's clients read of a model beside it.

Further names (setting `model_aliases`) are entries of their own behind the models, with `root` naming the model that they mean.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import MediaKind, ModelCard
from broker.wire.messages import PoolView
from http_edge.api.openai import schema_openai as openai
from http_edge.base.errors import EdgeError, shown
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, Answer, Param, Tag, again, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService

#: A list of models is requested by people; the pool does not change faster than workers beat.
_FRESH_S = 1.0

_OUTPUTS: tuple[MediaKind, ...] = ("video", "image")

#: SGLang's words for them.
_PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}

_TAG = Tag("Models", "What can be drawn with.")


class ModelsApi:
    """Handlers about models."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        #: The time is not known; clients sort by it.
        self._created = int(time.time())

    def routes(self) -> list[EdgeRoute]:
        """The routes; the short ones are those that SGLang's clients request."""
        return [
            route("/v1/models", GET=self.index),
            route("/models", GET=again(self.index, "listModelsAlias")),
            route("/v1/models/{id:path}", GET=self.retrieve),
            route("/v1/model_info", GET=self.info),
            route("/model_info", GET=again(self.info, "showModelInfoAlias")),
        ]

    @operation("listModels", _TAG, answers={200: Answer(about="The models.", types=(openai.ModelList,))}, errors=BROKER)
    async def index(self, request: Request) -> Response:
        """Every model that a worker can run."""
        return json_response(openai.ModelList(object="list", data=await self._entries()))

    @operation(
        "showModel",
        _TAG,
        params=(Param(name="id", place="path", required=True, about="The name; it may hold slashes."),),
        answers={200: Answer(about="The model.", types=(openai.Model,))},
        errors=(*BROKER, "model_not_found"),
    )
    async def retrieve(self, request: Request) -> Response:
        """One model by its name or a further one."""
        name = request.path_params["id"]
        for entry in await self._entries():
            if entry.id == name:
                return json_response(entry)
        raise EdgeError(
            "model_not_found", f"model: {shown(name)} is not a model of this service", param="model", place="path"
        )

    @operation(
        "showModelInfo",
        _TAG,
        answers={200: Answer(about="The model.", types=(openai.ModelInfo,))},
        errors=(*BROKER, "no_workers", "model_not_found", "invalid_value"),
    )
    async def info(self, request: Request) -> Response:
        """The model that a request without one gets."""
        card = await self._calls.catalogue.choose(None, default=self._calls.settings.default_model)
        return json_response(
            openai.ModelInfo(model_path=card.name, model=card.name, pipeline_class=card.pipeline or None)
        )

    async def _entries(self) -> list[openai.Model]:
        catalogue = self._calls.catalogue
        pool, cards = await catalogue.pool(_FRESH_S), await catalogue.cards()
        entries = [self._entry(card, card.name, pool) for card in cards]
        for alias, name in catalogue.aliases.items():
            entries += [self._entry(card, alias, pool) for card in cards if card.name == name]
        return entries

    def _entry(self, card: ModelCard, name: str, pool: PoolView) -> openai.Model:
        workers = [worker for worker in pool.workers if any(model.name == card.name for model in worker.models)]
        on_gpu = any(worker.device != "cpu" for worker in workers)
        precision = "bf16" if on_gpu else "fp32"
        tasks = task_types(card)
        return openai.Model(
            id=name,
            object="model",
            created=self._created,
            owned_by="zoetrope",
            root=card.name,
            parent=None,
            aliases=[alias for alias, model in self._calls.catalogue.aliases.items() if model == card.name],
            output=card.output,
            outputs=[output for output in _OUTPUTS if card.makes(output)],
            task_type=tasks[0],
            supported_task_types=tasks,
            pipeline=card.pipeline or None,
            pipeline_name=card.pipeline or None,
            pipeline_class=card.pipeline or None,
            num_gpus=max((worker.gpus for worker in workers), default=0) if on_gpu else 0,
            workers=len(workers),
            dit_precision=precision,
            vae_precision=_PRECISIONS.get(card.vae_dtype, precision),
            takes_image=card.takes_image,
            needs_image=card.needs_image,
            takes_inputs=list(card.takes_inputs),
            needs_inputs=list(card.needs_inputs),
            start_frames=card.start_frames,
            takes_negative_prompt=card.takes_negative_prompt,
            takes_guidance=card.takes_guidance,
            takes_guidance_2=card.takes_guidance_2,
            takes_size=card.takes_size,
            extra_parameters=None if card.extra_parameters is None else list(card.extra_parameters),
            default_strength=card.default_strength,
            resumes=card.resumes,
            sound=card.sound,
            defaults=card.defaults,
            limits=card.limits,
            sampler=card.sampler,
            presets=card.presets,
            cache=card.cache,
            caches=list(card.caches),
            loras=card.loras,
            setup=card.setup,
        )


def task_types(card: ModelCard) -> list[str]:
    """SGLang's words for what a model does: from text and image (T, I) to video and image (V, I), the usual first."""
    last = {"video": "V", "image": "I"}
    kinds = [] if card.needs_image else [f"T2{last[card.output]}"]
    if card.takes_image:
        kinds.append(f"I2{last[card.output]}")
    if card.takes_image and not card.needs_image:
        kinds.append(f"TI2{last[card.output]}")
    if card.output == "video" and card.also_image and not card.needs_image:
        kinds.append("T2I")
    return kinds

"""Parts of operations that LightX2V's generations share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from http_edge.api.common.operations import FILE_ANSWERS
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.http.operation import FILES, JSON, Answer, Param, Tag

GEN1 = Tag(
    "LightX2V, first generation", "The routes of LightX2V's guide. Answers are 200 except for validation errors."
)
TASKS = Tag("LightX2V tasks", "LightX2V's second and third generation.")
CLOUD = Tag("LightX2V cloud", "LightX2V's cloud API.")

IMAGE = {"image_file": False, "last_frame_file": False}
_TASK_ID = Annotated[str, Meta(max_length=lx.MAX_TASK_ID_CHARS)]

ID = Param(name="id", place="path", required=True, about="The task's id.")
BY_TASK_ID = Param(name="task_id", type=_TASK_ID, about="The task's id.")
TASK_ID = Param(name="task_id", type=_TASK_ID, about="The task's id.", required=True)
PATH = Param(name="path", place="path", required=True, about="A task's id, or where it was asked to save its result.")
GEN1_TAKEN = {
    200: Answer(
        about="It was taken, or `error` says why not.",
        types=(lx.Gen1Taken,),
        links=("gen1TaskStatusByQuery", "gen1TaskResult"),
    )
}
STOPPED = {200: Answer(about="What became of it.", types=(lx.StopAnswer,))}
FILE_OR_NOT = {
    200: Answer(about="The file, or why there is none.", types=(lx.FileStatus,), media=(*FILES, JSON)),
    **FILE_ANSWERS,
}

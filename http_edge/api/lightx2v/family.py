"""LightX2V's APIs as families: the first generation, the second and third, and the cloud."""

from __future__ import annotations

from http_edge.api.common.error_bodies import error_member, fault_items
from http_edge.api.common.family import Family, Parts
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.cloud_api import LightX2VCloudApi
from http_edge.api.lightx2v.dist_api import LightX2VDistApi
from http_edge.api.lightx2v.service_api import LightX2VServiceApi
from http_edge.api.lightx2v.submissions import TaskSubmitter
from http_edge.api.lightx2v.sync_tasks import SyncTasks
from http_edge.api.lightx2v.tasks_api import LightX2VTasksApi
from http_edge.api.lightx2v.video_api import LightX2VApi
from http_edge.base.errors import EdgeError
from http_edge.http.routing import EdgeRoute


def _gen1_error(error: EdgeError, status: int, path: str) -> lx.LightX2VError:
    if status == 422:
        return lx.LightX2VError(detail=fault_items(error))
    if status == 200:
        return lx.LightX2VError(error=error.message)
    return lx.LightX2VError(error=error.message, detail=error.message)


def _gen1_routes(parts: Parts) -> list[EdgeRoute]:
    return [
        *LightX2VApi(parts.calls).routes(),
        *LightX2VDistApi(parts.calls, TaskSubmitter(parts.calls)).routes(),
    ]


GEN1 = Family(
    name="lightx2v",
    prefixes=("/v1/local/", "/v1/file/"),
    render=_gen1_error,
    body=lx.LightX2VError,
    # Its server answered 200 to all but validation.
    statuses={
        "bad_json": 422,
        "bad_form": 422,
        "id_conflict": 200,
        "alias_taken": 200,
        "queue_full": 200,
        "busy": 200,
    },
    routes=_gen1_routes,
)


def _tasks_error(error: EdgeError, status: int, path: str) -> lx.TasksError:
    return lx.TasksError(detail=fault_items(error) if status == 422 else error.message, error=error_member(error))


def _tasks_routes(parts: Parts) -> list[EdgeRoute]:
    submitter = TaskSubmitter(parts.calls)
    sync = SyncTasks(parts.calls, submitter, parts.fetcher)
    return [
        # Before `/v1/tasks/{id}/status`: the queue is no task.
        *LightX2VServiceApi(parts.calls, submitter).routes(),
        *LightX2VTasksApi(submitter, parts.progress, sync, parts.calls).routes(),
    ]


TASKS = Family(
    name="lightx2v_tasks",
    prefixes=("/v1/tasks", "/v1/service/", "/v1/files/download/"),
    render=_tasks_error,
    body=lx.TasksError,
    # A task that cannot be queued is 503, and nothing is 410.
    statuses={
        "bad_json": 422,
        "bad_form": 422,
        "queue_full": 503,
        "alias_taken": 503,
        "id_conflict": 503,
        "gone": 404,
    },
    routes=_tasks_routes,
)


def _cloud_error(error: EdgeError, status: int, path: str) -> lx.CloudError:
    return lx.CloudError(message=f"error: {error.message}!", detail=error.message, error=error_member(error))


def _cloud_routes(parts: Parts) -> list[EdgeRoute]:
    return LightX2VCloudApi(parts.calls).routes()


CLOUD = Family(
    name="lightx2v_cloud",
    prefixes=("/api/v1/", "/assets/task/"),
    render=_cloud_error,
    body=lx.CloudError,
    statuses={"missing_field": 400, "invalid_value": 400, "gone": 404},
    routes=_cloud_routes,
)

"""All of LightX2V's routes, in the order in which they are matched."""

from __future__ import annotations

from http_edge.calls import Calls
from http_edge.fetch import Fetcher
from http_edge.lightx2v_api import LightX2VApi
from http_edge.lightx2v_cloud_api import LightX2VCloudApi
from http_edge.lightx2v_dist_api import LightX2VDistApi
from http_edge.lightx2v_intake import Intake
from http_edge.lightx2v_service_api import LightX2VServiceApi
from http_edge.lightx2v_sync import SyncTasks
from http_edge.lightx2v_tasks_api import LightX2VTasksApi
from http_edge.progress import Progress
from http_edge.routes import EdgeRoute


def lightx2v_routes(calls: Calls, progress: Progress, fetcher: Fetcher) -> list[EdgeRoute]:
    """The routes of every generation."""
    intake = Intake(calls)
    return [
        *LightX2VApi(calls).routes(),
        # Before `/v1/tasks/{id}/status`: the queue is no task.
        *LightX2VServiceApi(calls, intake).routes(),
        *LightX2VTasksApi(intake, progress, SyncTasks(calls, intake, fetcher), calls).routes(),
        *LightX2VDistApi(calls, intake).routes(),
        *LightX2VCloudApi(calls).routes(),
    ]

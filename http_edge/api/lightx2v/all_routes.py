"""All of LightX2V's routes, in the order in which they are matched."""

from __future__ import annotations

from http_edge.api.lightx2v.cloud_api import LightX2VCloudApi
from http_edge.api.lightx2v.dist_api import LightX2VDistApi
from http_edge.api.lightx2v.service_api import LightX2VServiceApi
from http_edge.api.lightx2v.submissions import TaskSubmitter
from http_edge.api.lightx2v.sync_tasks import SyncTasks
from http_edge.api.lightx2v.tasks_api import LightX2VTasksApi
from http_edge.api.lightx2v.video_api import LightX2VApi
from http_edge.http.routing import EdgeRoute
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService
from http_edge.media.fetch import Fetcher


def lightx2v_routes(calls: JobService, progress: Progress, fetcher: Fetcher) -> list[EdgeRoute]:
    """The routes of every generation."""
    intake = TaskSubmitter(calls)
    return [
        *LightX2VApi(calls).routes(),
        # Before `/v1/tasks/{id}/status`: the queue is no task.
        *LightX2VServiceApi(calls, intake).routes(),
        *LightX2VTasksApi(intake, progress, SyncTasks(calls, intake, fetcher), calls).routes(),
        *LightX2VDistApi(calls, intake).routes(),
        *LightX2VCloudApi(calls).routes(),
    ]

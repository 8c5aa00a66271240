"""Files that a request brings as inputs of its job: kept copies, by the field that they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.wire.inputs import ROLES, InputKind
from broker.wire.jobspec import Artefact
from http_edge.body.forms import Upload
from http_edge.jobs.job import Job
from http_edge.media.input_sources import InputSources
from http_edge.media.input_store import Picture
from http_edge.media.result_files import ResultFiles


class JobInputs:
    """Copies of what clients bring or name, kept for the job."""

    def __init__(self, sources: InputSources, results: ResultFiles) -> None:
        self._sources = sources
        self._results = results

    async def image(self, field: str, source: str | Upload, *, allow_paths: bool) -> Picture:
        """The kept copy of a client's image, for `Submission.image`: from an upload of this request, a data URL, base64, an http(s) URL,
        an uploaded file's id, or (`allow_paths`) a path on this machine. Raises `EdgeError` naming field, value and rule."""
        return await self._sources.resolve(field, source, allow_paths=allow_paths)

    async def uploaded(self, files: Mapping[str, Sequence[Upload]]) -> dict[str, tuple[Picture, ...]]:
        """The kept copies of files that came as further inputs, by role, for `Submission.inputs`. Raises `EdgeError`."""
        return {
            role: tuple(
                [
                    await self._sources.resolve(file.field, file, allow_paths=False, kind=ROLES[role].kind)
                    for file in uploads
                ]
            )
            for role, uploads in files.items()
        }

    async def of_result(self, field: str, job: Job, artefact: Artefact, kind: InputKind) -> Picture:
        """A copy of a job's file that is kept as an input. Raises `EdgeError`."""
        path = await self._results.fetched(job.view, artefact)
        return await self._sources.of_result(field, job.id, path, kind)

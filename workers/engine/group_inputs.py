"""Inputs of a job for the processes of its group that are on other machines: rank 0 has the files, and gives them out with the job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from broker.wire.jobspec import JobSpec


def contents(spec: JobSpec) -> dict[str, bytes]:
    """The job's inputs by their paths. One that cannot be read is left out: the error comes where it is used."""
    found = {}
    for path in {spec.image, *(path for paths in spec.inputs.values() for path in paths)} - {""}:
        with suppress(OSError):
            found[path] = Path(path).read_bytes()
    return found


@contextmanager
def placed(spec: JobSpec, files: Mapping[str, bytes]) -> Iterator[JobSpec]:
    """Inside, the job with its inputs in files of this machine."""
    if not files:
        yield spec
        return
    with tempfile.TemporaryDirectory(prefix="zoetrope-inputs-") as directory:
        places = {}
        for number, (path, content) in enumerate(files.items()):
            # Its name has its type, and is named in errors.
            places[path] = Path(directory, str(number), Path(path).name)
            places[path].parent.mkdir()
            places[path].write_bytes(content)

        def here(path: str) -> str:
            return str(places.get(path, path))

        inputs = {role: tuple(map(here, paths)) for role, paths in spec.inputs.items()}
        yield replace(spec, image=here(spec.image), inputs=inputs)

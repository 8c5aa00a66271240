"""Looking at what is left: the journal, the files, the processes, their memory and descriptors."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil
from msgspec import Struct
from PIL import Image

from broker.core.jobs import Job
from broker.depot.object_store import ObjectStore
from broker.depot.tokens import ARTEFACTS, attempt_of
from broker.shell.journal import rows, statements
from broker.wire.job_files import CHECKPOINTS
from tests.chaos.clients import file_fact
from tests.chaos.history import DiskFile, FileFact, JournalJob

#: What a home may hold after a clean stop (docs/operations.md, Files).
HOME = frozenset(
    (
        "artefacts",
        "ballast",
        "depot_secret",
        "broker.lock",
        "exports",
        "jobs.sqlite",
        "jobs.sqlite-mark",
        "peaks.json",
        "peaks.lock",
        "pins",
        "result_cache",
        "retention.lock",
        "run",
        "service_id",
        "uploads",
        "webhook_secret",
    )
)
#: Names of half-written files, wherever they are.
_HALF_WRITTEN = (".part", ".tmp", ".partial")


class Load(Struct, frozen=True, kw_only=True):
    """What a process uses."""

    name: str
    descriptors: int
    rss_mb: float


def load_of(name: str, pid: int) -> Load:
    """Of a process that lives."""
    process = psutil.Process(pid)
    return Load(name=name, descriptors=process.num_fds(), rss_mb=process.memory_info().rss / 2**20)


def read_journal(home: Path) -> tuple[str, list[JournalJob]]:
    """(verdict of SQLite's integrity check, every job), once the broker has let go of the file."""
    connection = sqlite3.connect(home / "jobs.sqlite")
    try:
        verdict = str(connection.execute("PRAGMA integrity_check(3)").fetchone()[0])
        jobs = [rows.decode(row) for row in connection.execute(statements.SELECT)]
    finally:
        connection.close()
    return verdict, [_journal_job(job) for job in jobs]


def _journal_job(job: Job) -> JournalJob:
    made = job.result.artefacts if job.result else ()
    return JournalJob(
        job_id=job.id,
        state=job.state.value,
        fence=job.fence,
        files=tuple(FileFact(artefact.name, artefact.size, artefact.sha256) for artefact in made),
        story=tuple(move.target for move in job.history),
        attempts=job.attempts,
    )


def read_artefacts(home: Path) -> list[DiskFile]:
    """Every file of every attempt."""
    found = []
    for path in (home / "artefacts").glob("*/*/*"):
        fact = file_fact(path)
        if fact is not None and path.parent.name.isdecimal():
            job_id, fence = path.parent.parent.name, int(path.parent.name)
            found.append(DiskFile(job_id=job_id, fence=fence, file=fact, pixels=_pixels(path)))
    return found


def read_objects(store: ObjectStore) -> list[DiskFile]:
    """Every file of every attempt in an object store."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for one in store.below(ARTEFACTS):
            job_id, fence = attempt_of(one.key) or ("", 0)
            path = Path(directory, Path(one.key).name)
            path.write_bytes(store.read(one.key))
            fact = file_fact(path)
            assert fact is not None
            found.append(DiskFile(job_id=job_id, fence=fence, file=fact, pixels=_pixels(path)))
    return found


def _pixels(path: Path) -> str:
    """Digest of a picture's size and raw pixels; "" of any other file, and of one that is cut off."""
    if path.suffix != ".png":
        return ""
    try:
        with Image.open(path) as image:
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    except OSError:
        return ""


def leftovers(home: Path, start_dir: Path, jobs: Sequence[JournalJob]) -> tuple[list[str], int]:
    """(what nobody documented, number of directories of attempts that lost)."""
    wrong = [f"{path.name} in the home" for path in home.iterdir() if path.name not in HOME]
    places = [
        path
        for root in (home, start_dir)
        for path in root.rglob("*")
        # Of a job that has ended, the edges remove them within a minute.
        if path.is_file() and CHECKPOINTS not in path.parts
    ]
    wrong += [f"half-written file {path}" for path in places if path.suffix in _HALF_WRITTEN]
    published = {(job.job_id, str(job.fence)) for job in jobs if job.state == "succeeded"}
    known = {job.job_id for job in jobs}
    lost_attempts = 0
    for directory in (home / "artefacts").glob("*/*"):
        if directory.parent.name == CHECKPOINTS:
            if directory.name not in known:
                wrong.append(f"{directory}: checkpoints of no job in the journal")
            continue
        if directory.parent.name not in known:
            wrong.append(f"{directory}: of no job in the journal")
        lost_attempts += (directory.parent.name, directory.name) not in published
    wrong += [f"{path} outlived its broker" for path in (home / "run").glob("*.sock")]
    return wrong, lost_attempts

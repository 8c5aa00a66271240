"""The verdict: a pure function from evidence to broken promises.

It is a total-queue checker: what was accepted must come out, once, and nothing else may.

- lost: accepted, and the journal does not have it, or a client got 404 for it.
- stuck: in the journal, and not final after everything had time to end.
- twice: more than one final state in the story, one id with two seeds (a repeated submit began a second job), or two sets of files.
- changed: a state seen as final, and then another one, by whoever asked after that (of the same edge at once, of another within `STALE_S`).
- unaccepted: in the journal, and nobody ever submitted it.
- disagree: the client and the journal know different ends.
- cancel: a cancel was taken, and the job succeeded all the same; or a job that did not succeed has files.
- digest: a file is not what the journal says of it: on the disk, as downloaded, or at the client's own path.
- pixels: two jobs that asked for the same picture drew two, which shows once one of them was interrupted.
- answer: an answer that is not in the documentation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from tests.chaos.history import (
    FINAL,
    Accepted,
    CancelAnswered,
    DiskFile,
    Evidence,
    Fact,
    Fetched,
    FileFact,
    JournalJob,
    Missing,
    Saved,
    Seen,
    Submitted,
    Undesigned,
    Violation,
)

#: Another edge than the one that told of the end may answer from memory for this long (`_RUNNING_FRESH_S` of http_edge.hub).
STALE_S = 1.0

KINDS = ("lost", "stuck", "twice", "changed", "unaccepted", "disagree", "cancel", "digest", "pixels", "answer")


def check(evidence: Evidence) -> list[Violation]:
    """Every broken promise, in the order of `KINDS`."""
    by_job: dict[str, list[Fact]] = defaultdict(list)
    for fact in evidence.facts:
        by_job[fact.job_id].append(fact)
    journal = {job.job_id: job for job in evidence.journal}
    disk: dict[tuple[str, int], list[DiskFile]] = defaultdict(list)
    for found in evidence.disk:
        disk[found.job_id, found.fence].append(found)
    violations = [*_unaccepted(by_job, journal)]
    for job_id, facts in by_job.items():
        violations += _of_client(job_id, facts, journal.get(job_id))
    for job in evidence.journal:
        violations += _of_journal(job, disk[job.job_id, job.fence])
    violations += _drawn(by_job, journal, disk)
    return sorted(violations, key=lambda violation: KINDS.index(violation.kind))


def _unaccepted(by_job: Mapping[str, list[Fact]], journal: Mapping[str, JournalJob]) -> Iterator[Violation]:
    for job_id in journal:
        if not any(isinstance(fact, Submitted) for fact in by_job.get(job_id, ())):
            yield Violation(kind="unaccepted", job_id=job_id, text="is in the journal, and nobody submitted it")


def _of_client(job_id: str, facts: list[Fact], job: JournalJob | None) -> Iterator[Violation]:
    yield from (
        Violation(kind="answer", job_id=job_id, text=fact.text) for fact in facts if isinstance(fact, Undesigned)
    )
    yield from _lost(job_id, facts, job)
    yield from _repeated(job_id, facts)
    yield from _changed(job_id, facts)
    if job is None:
        return
    last = next((fact.state for fact in reversed(facts) if isinstance(fact, Seen) and fact.state in FINAL), "")
    if last and last != job.state:
        yield Violation(
            kind="disagree", job_id=job_id, text=f"the client saw {last}, the journal says {job.state or 'nothing'}"
        )
    yield from _cancelled(job_id, facts, job)
    yield from _files(job_id, facts, job)


def _lost(job_id: str, facts: list[Fact], job: JournalJob | None) -> Iterator[Violation]:
    reported = next((fact for fact in facts if isinstance(fact, Accepted | Seen)), None)
    if reported is not None and job is None:
        yield Violation(
            kind="lost", job_id=job_id, text=f"was accepted at {reported.at:.3f} s, and the journal does not have it"
        )
        return
    missing = next((fact for fact in facts if isinstance(fact, Missing) and reported and reported.at <= fact.at), None)
    if missing is not None and reported is not None:
        text = f"404 at {missing.at:.3f} s, accepted at {reported.at:.3f} s, and it is in the journal"
        yield Violation(kind="lost", job_id=job_id, text=text)


def _repeated(job_id: str, facts: list[Fact]) -> Iterator[Violation]:
    seeds = {fact.seed for fact in facts if isinstance(fact, Accepted)}
    if len(seeds) > 1:
        yield Violation(kind="twice", job_id=job_id, text=f"one id was accepted with {len(seeds)} seeds: {seeds}")
    published = {fact.files for fact in facts if isinstance(fact, Seen) and fact.state == "succeeded"}
    if len(published) > 1:
        yield Violation(kind="twice", job_id=job_id, text=f"was published with {len(published)} sets of files")


def _changed(job_id: str, facts: list[Fact]) -> Iterator[Violation]:
    final: Seen | None = None
    for fact in facts:
        if not isinstance(fact, Seen):
            continue
        if final is not None and fact.state != final.state and not _may_be_older(fact, final):
            text = (
                f"was {final.state} at {final.at:.3f} s (edge {final.edge})"
                f" and {fact.state} at {fact.at:.3f} s (edge {fact.edge})"
            )
            yield Violation(kind="changed", job_id=job_id, text=text)
            return
        if final is None and fact.state in FINAL:
            final = fact


def _may_be_older(later: Seen, final: Seen) -> bool:
    """Whether an answer that came later may honestly tell of a time before: it was asked for earlier, or another edge gave it."""
    if later.state in FINAL:
        return False
    return later.asked <= final.at + (0.0 if later.edge == final.edge else STALE_S)


def _cancelled(job_id: str, facts: list[Fact], job: JournalJob) -> Iterator[Violation]:
    taken = {fact.outcome for fact in facts if isinstance(fact, CancelAnswered)} & {"cancelled", "requested"}
    if taken and job.state == "succeeded":
        yield Violation(kind="cancel", job_id=job_id, text=f"a cancel was answered {taken}, and it succeeded")


def _files(job_id: str, facts: list[Fact], job: JournalJob) -> Iterator[Violation]:
    recorded = {file.name: file for file in job.files}
    first = job.files[0] if job.files else None
    for fact in facts:
        if isinstance(fact, Fetched) and recorded.get(fact.file.name) != fact.file:
            yield _differs(job_id, "the download", fact.file, recorded.get(fact.file.name))
        if isinstance(fact, Saved) and job.state == "succeeded" and not _same_bytes(fact.file, first):
            yield _differs(job_id, "the client's path", fact.file, first)
        if isinstance(fact, Seen) and fact.state == "succeeded" and fact.files != job.files:
            yield Violation(kind="digest", job_id=job_id, text="the files in an answer are not those of the journal")


def _drawn(
    by_job: Mapping[str, list[Fact]],
    journal: Mapping[str, JournalJob],
    disk: Mapping[tuple[str, int], list[DiskFile]],
) -> Iterator[Violation]:
    """Compare the pictures of all jobs that asked for the same one; most of them are right."""
    pictures: dict[str, dict[str, str]] = defaultdict(dict)
    for job_id, facts in by_job.items():
        drawing = next((fact.drawing for fact in facts if isinstance(fact, Submitted)), "")
        job = journal.get(job_id)
        if not drawing or job is None or job.state != "succeeded":
            continue
        for found in disk[job_id, job.fence]:
            if found.pixels:
                pictures[drawing][job_id] = found.pixels
    for drawing, drawn in pictures.items():
        [(usual, count)] = Counter(drawn.values()).most_common(1)
        for job_id, pixels in drawn.items():
            if pixels != usual:
                text = f"{drawing!r} has other pixels than {count} of {len(drawn)} jobs"
                yield Violation(kind="pixels", job_id=job_id, text=text)


def _of_journal(job: JournalJob, there: Iterable[DiskFile]) -> Iterator[Violation]:
    if job.state not in FINAL:
        yield Violation(kind="stuck", job_id=job.job_id, text=f"is still {job.state}: {' > '.join(job.story)}")
        return
    ends = [state for state in job.story if state in FINAL]
    if len(ends) != 1 or job.story[-1] != job.state:
        yield Violation(
            kind="twice", job_id=job.job_id, text=f"is {job.state} and its story is {' > '.join(job.story)}"
        )
    if job.state != "succeeded":
        if job.files:
            yield Violation(kind="cancel", job_id=job.job_id, text=f"is {job.state}, and has files")
        return
    if not job.files:
        yield Violation(kind="digest", job_id=job.job_id, text="succeeded without a file")
    found = {item.file.name: item.file for item in there}
    for file in job.files:
        if found.get(file.name) != file:
            yield _differs(job.job_id, "the disk", found.get(file.name), file)


def _same_bytes(one: FileFact | None, other: FileFact | None) -> bool:
    """Whatever they are called."""
    return one is not None and other is not None and (one.size, one.sha256) == (other.size, other.sha256)


def _differs(job_id: str, place: str, there: FileFact | None, recorded: FileFact | None) -> Violation:
    text = f"{place} has {_shown(there)}, the journal {_shown(recorded)}"
    return Violation(kind="digest", job_id=job_id, text=text)


def _shown(file: FileFact | None) -> str:
    return f"{file.name} of {file.size} bytes, sha256 {file.sha256[:12]}" if file else "no such file"

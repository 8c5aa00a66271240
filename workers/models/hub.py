"""Fetch a model from the hub into its cache: the files that a pipeline is loaded from and no others, with their size known before.

Nothing else of the project reaches the hub: engines load what is on this machine. An interrupted fetch goes on where it was when it is
called again, and a model is seen in the cache (`sources.find`) once it is complete.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import huggingface_hub
from huggingface_hub import constants, errors
from msgspec import Struct

from workers.models.sources import INDEX, HubId, cache_of, parse_hub_id
from workers.models.weights import WEIGHT_FILE

#: Called with (bytes on disk, bytes in all) each time that some more have arrived; from several threads, one at a time.
Progress = Callable[[int, int], None]

#: Left free on the disk beside what is fetched: a full disk stops everything else that writes there.
_RESERVE = 1 << 30

_THREADS = 4
#: Bytes that are read at a time.
_PIECE = 1 << 20
#: Waits between tries of one file whose connection broke, in seconds; each goes on where the one before ended.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
#: Answers that another try may not get.
_PASSING = (429, 500, 502, 503, 504)
#: Ends the name of a file that has not all come.
_PART = ".part"
_ETAG = re.compile(r"[0-9A-Za-z_-]{1,128}")

_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
    ".pb",
    ".gguf",
    ".xml",
)
#: What a part is made of beside its weights: configs, tokenizers and their vocabularies.
_SMALL = (".json", ".txt", ".model", ".jinja", ".spm", ".vocab", ".tiktoken")

#: The index of a part's shards, where the variant stands at another place than in their names.
_SHARDS = re.compile(r"[A-Za-z0-9_]+\.safetensors\.index(?:\.(?P<variant>[A-Za-z0-9_]+))?\.json")


class PullError(Exception):
    """Nothing, or not everything, was fetched; one sentence on the reason."""


class Fetch(Struct, frozen=True, kw_only=True):
    """Plan of a download: `files` by path in the repository with their sizes in bytes, and how many bytes are not here yet."""

    model: HubId
    #: The commit that the revision names now.
    commit: str
    files: Mapping[str, int]
    missing: int

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


# ---------------------------------------------------------------- which files


def pipeline_files(names: Iterable[str], index: Mapping[str, Any], variant: str = "") -> tuple[str, ...]:
    """The files that a pipeline with this `model_index.json` is loaded from, of all `names` in its repository.

    Each part's configs, vocabularies and safetensors of one variant: `variant` where it has that, else the plain one, else its only one.
    Raises `PullError` for a part whose weights come as pickled files alone, and for a variant that no part has.
    """
    parts = {key for key, value in index.items() if isinstance(value, list) and value != [None, None]}
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        if rest and "/" not in rest and folder in parts:
            folders.setdefault(folder, []).append(rest)
    taken: list[str] = [name for name in names if name in (INDEX, "zoetrope.toml")]
    seen: set[str] = set()
    for folder, files in sorted(folders.items()):
        chosen = _weights(folder, files, variant)
        seen.update(part[1] for part in chosen)
        small = [
            file for file in files if file.endswith(_SMALL) and not _SHARDS.fullmatch(file) and ".index." not in file
        ]
        taken += [f"{folder}/{file}" for file in (*small, *(file for file, _ in chosen))]
    if variant and variant not in seen:
        raise PullError(f"variant {variant!r}: no part has weights of it")
    return tuple(sorted(taken))


def _weights(folder: str, files: Iterable[str], variant: str) -> list[tuple[str, str]]:
    """(file, its variant) of one part's weights and their index; empty for a part without weights, as a scheduler."""
    by_variant: dict[str, list[str]] = {}
    others = []
    for file in files:
        if (match := WEIGHT_FILE.fullmatch(file)) and match["kind"] == "safetensors":
            by_variant.setdefault(match["variant"] or match["late"] or "", []).append(file)
        elif match := _SHARDS.fullmatch(file):
            by_variant.setdefault(match["variant"] or "", []).append(file)
        elif file.endswith(_WEIGHTS):
            others.append(file)
    if not by_variant:
        if pickled := [file for file in others if file.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
            raise PullError(
                f"{folder} has its weights only as {pickled[0]}, a pickled file, which is never loaded; "
                "look for a revision of the model with safetensors"
            )
        return []
    for choice in (variant, "", *sorted(by_variant)):
        if found := by_variant.get(choice):
            return [(file, choice) for file in found]
    raise AssertionError("unreachable: one variant is there")


def chosen_files(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The files that `patterns` name, each a path in the repository or a glob. Raises `PullError` for one that names none."""
    everything = sorted(names)
    taken: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(everything, pattern)
        if not matching:
            raise PullError(f"{pattern!r} names no file; there are: {_listed(everything)}")
        taken.update(dict.fromkeys(matching))
    return tuple(taken)


def _listed(names: list[str], most: int = 12) -> str:
    weights = [name for name in names if name.endswith(_WEIGHTS)] or names
    return ", ".join(weights[:most]) + (f" and {len(weights) - most} more" if len(weights) > most else "")


# ---------------------------------------------------------------- fetching


def plan(source: str, files: Iterable[str] = (), variant: str = "") -> Fetch:
    """Read from the hub what `pull` would fetch of `OWNER/NAME` or `OWNER/NAME@REVISION`; at most the index is fetched. Raises `PullError`.

    `files` name single files of the repository (LoRAs, GGUF), which need no `model_index.json`.
    """
    model = parse_hub_id(source)
    if model is None:
        raise PullError(f"{source!r} is no hub id: OWNER/NAME, or OWNER/NAME@REVISION")
    selected = tuple(files)
    with _Explained(model):
        info = huggingface_hub.HfApi().model_info(model.repo, revision=model.ref, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
        commit = str(info.sha)
        if selected:
            names = chosen_files(sizes, selected)
        elif INDEX in sizes:
            path = huggingface_hub.hf_hub_download(model.repo, INDEX, revision=commit)
            names = pipeline_files(sizes, _index(path), variant)
        else:
            raise PullError(
                f"{model.repo} has no {INDEX}, so it is not a whole model in diffusers' layout; "
                f"name the files you want of it: {_listed(sorted(sizes))}"
            )
    absent = [
        name
        for name in names
        if not isinstance(huggingface_hub.try_to_load_from_cache(model.repo, name, revision=commit), str)
    ]
    missing = sum(sizes[name] for name in absent)
    return Fetch(model=model, commit=commit, files={name: sizes[name] for name in names}, missing=missing)


def pull(fetch: Fetch, progress: Progress = lambda done, total: None) -> Path:
    """Fetch what is missing; returns the directory that holds the files. Raises `PullError`; what has arrived is kept for the next try."""
    cache = cache_of(fetch.model)
    begun = sum(path.stat().st_size for path in (cache / "blobs").glob(f"*{_PART}"))
    _check_disk(cache, fetch.missing - begun)
    with _Explained(fetch.model), _Transfer(fetch, cache, progress) as transfer:
        transfer.run()
    # Last: by this file `sources.find` finds the model.
    reference = cache / "refs" / fetch.model.ref
    reference.parent.mkdir(parents=True, exist_ok=True)
    beside = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
    beside.write_text(fetch.commit, encoding="ascii")
    beside.replace(reference)
    return cache / "snapshots" / fetch.commit


class _Transfer:
    """Files of one commit on their way into the hub's cache, some at a time.

    The client of the hub begins a file anew after an interruption, and one file may have 28 GB; so the bytes are fetched here, into the
    client's layout: `blobs/ETAG`, and a link to it in `snapshots/COMMIT/`. A file is there when all of it is, with the digest that the hub
    names it by.
    """

    def __init__(self, fetch: Fetch, cache: Path, progress: Progress) -> None:
        self._fetch = fetch
        self._cache = cache
        self._progress = progress
        self._done = fetch.total - fetch.missing
        self._lock = threading.Lock()
        self._stop = threading.Event()
        token = huggingface_hub.get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0))

    def __enter__(self) -> _Transfer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def run(self) -> None:
        """Fetch all files. The first error ends it, once those under way have noticed."""
        self._came(0)
        with ThreadPoolExecutor(_THREADS, "pull") as pool:
            waiting = [pool.submit(self._file, name) for name in self._fetch.files]
            try:
                for each in as_completed(waiting):
                    each.result()
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _file(self, name: str) -> None:
        link = self._cache / "snapshots" / self._fetch.commit / name
        if link.exists() or self._stop.is_set():
            return
        url = huggingface_hub.hf_hub_url(self._fetch.model.repo, name, revision=self._fetch.commit)
        metadata = huggingface_hub.get_hf_file_metadata(url)
        if metadata.etag is None or not _ETAG.fullmatch(metadata.etag):
            raise PullError(f"the hub gives no usable identity of {name}: {metadata.etag!r}")
        blob = self._cache / "blobs" / metadata.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.exists():
            self._came(self._fetch.files[name])
        elif metadata.size is None:
            raise PullError(f"the hub does not say how large {name} is")
        elif not self._blob(name, url, blob, metadata.size):
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        beside = link.with_name(f"{link.name}.{os.getpid()}.tmp")
        beside.symlink_to(os.path.relpath(blob, link.parent))
        beside.replace(link)

    def _blob(self, name: str, url: str, blob: Path, size: int) -> bool:
        """Fetch one file's bytes; False when it was stopped."""
        with blob.with_name(blob.name + _PART).open("ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise PullError(f"another process is fetching {name} into {blob.parent}") from None
            part = _Part(file, blob.name, size)
            self._came(part.length)
            failures = 0
            while part.length < size and not self._stop.is_set():
                begin = part.length
                try:
                    self._bytes(name, url, part)
                except httpx.TransportError:
                    failures = 1 if part.length > begin else failures + 1
                    if failures > len(_PAUSES_S):
                        raise
                    self._stop.wait(_PAUSES_S[failures - 1])
                    continue
                if part.length < size and not self._stop.is_set():
                    raise PullError(f"{name} came short: {part.length} bytes of {size}")
            if part.length < size:
                return False
            file.flush()
            os.fsync(file.fileno())
            if not part.is_whole():
                part.restart()
                raise PullError(f"{name} came damaged: its bytes are not those of {blob.name}; fetch it again")
            os.replace(file.name, blob)
        return True

    def _bytes(self, name: str, url: str, part: _Part) -> None:
        """Append what is missing of a file, or all that one answer gives of it."""
        begin = part.length
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
        with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code in _PASSING:
                raise httpx.ReadError(f"{response.status_code} {response.reason_phrase}")
            if response.status_code not in ((200, 206) if begin else (200,)):
                raise PullError(f"{name}: the hub answered {response.status_code} {response.reason_phrase}")
            if begin and response.status_code == 200:  # the server supports no ranges
                part.restart()
                self._came(-begin)
            # As they come: what is short of a full buffer would be lost with the connection.
            for piece in response.iter_raw():
                part.write(piece)
                self._came(len(piece))
                if self._stop.is_set():
                    return

    def _came(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._progress(min(self._done, self._fetch.total), self._fetch.total)


class _Part:
    """A file on its way, open for appending, and the digest of its bytes by which the hub names it: SHA-256, or what git calls a blob."""

    def __init__(self, file: BinaryIO, identity: str, size: int) -> None:
        self._file = file
        self._identity = identity
        self._size = size
        self._digest = self._new_digest()
        self.length = 0
        file.seek(0)
        while piece := file.read(_PIECE):
            self._digest.update(piece)
            self.length += len(piece)

    def _new_digest(self) -> Any:
        if len(self._identity) != 40:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self._size, usedforsecurity=False)

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        self._file.write(piece)
        self._digest.update(piece)
        self.length += len(piece)

    def restart(self) -> None:
        """Forget all bytes."""
        self._file.truncate(0)
        self._digest, self.length = self._new_digest(), 0

    def is_whole(self) -> bool:
        """Whether these are the bytes that the hub names; True for an identity of another kind, if their number is right."""
        digest = self._digest.hexdigest()
        return self.length == self._size and (len(self._identity) != len(digest) or digest == self._identity)


def _check_disk(cache: Path, needed: int) -> None:
    there = next(path for path in (cache, *cache.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > 0 and needed + _RESERVE > free:
        raise PullError(
            f"{gigabytes(needed)} are to be fetched and {gigabytes(free)} are free in {there}, of which {gigabytes(_RESERVE)} stay so: "
            "make room, or set HF_HOME to a larger disk"
        )


def gigabytes(size: float) -> str:
    """A number of bytes as people write it: "12.3 GB", "45 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _index(path: str) -> Mapping[str, Any]:
    try:
        index = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PullError(f"its {INDEX} cannot be read: {error}") from None
    if not isinstance(index, dict):
        raise PullError(f"its {INDEX} holds no JSON object")
    return index


class _Explained:
    """Turn what the hub's client raises into one sentence with what to do."""

    def __init__(self, model: HubId) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and (text := _why(self._model, error)):
            raise PullError(text) from error


def _why(model: HubId, error: BaseException) -> str:
    """Describe an error; "" for one that is not the hub's or the network's."""
    endpoint = constants.ENDPOINT
    again = "what has arrived is kept, and the same command goes on from there"
    if isinstance(error, errors.GatedRepoError):
        return f"{model.repo} is gated: accept its terms at {endpoint}/{model.repo}, then set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no public model {model.repo!r}; for a private one, set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model.repo} has no revision {model.ref!r}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked: unset it for this command"
    if isinstance(error, errors.HFValidationError):
        return f"{model.repo!r} is no hub id: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: make room; {again}"
    if isinstance(error, PermissionError):
        return f"{error.filename} cannot be written: {os.strerror(error.errno or errno.EACCES)}"
    # The client raises its HTTP library's errors as they are, and has changed that library more than once.
    if isinstance(error, OSError) or type(error).__module__.startswith(("http", "requests", "huggingface_hub")):
        text = " ".join(str(error).split()) or type(error).__name__
        return f"the hub at {endpoint} did not give it: {text[:300]}; {again}"
    return ""

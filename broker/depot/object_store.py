"""Results and checkpoints in an object store of S3's kind: `<prefix>/artefacts/<job>/<fence>/<name>`, as on an edge's disk, and
`<prefix>/checkpoints/<job>/<fence>/<name>`.

Keys need no conditions: a fence is granted once, so that two writers of one key write the same bytes. Each object bears the SHA-256 of its
bytes, and its reader checks them. Credentials, region and endpoint are found as the store's own tools find them (`AWS_ACCESS_KEY_ID`,
`AWS_REGION`, `AWS_ENDPOINT_URL`, the machine's role …), and stand in no setting. All calls block.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker.runtime.settings import CommonSettings, SettingsError

_MODULE, EXTRA = "obstore", "pip install 'zoetrope[s3]'"

#: A bucket's name, and what may stand behind it.
_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]{1,512})?")
_CHUNK_BYTES = 1024 * 1024
_SHA256 = "sha256"
#: Retries that the library makes within one call; a worker's order is tried again after that (`workers/depot/orders.py`).
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
#: For one request, with all bytes that it carries; without a byte of an answer; and until a part that is sent was taken.
_LONGEST, _SILENT, _SENT_WITHIN = timedelta(hours=1), timedelta(seconds=20), timedelta(minutes=2)
#: Parts (5 MB each) of a file that are sent at once: each must be through within the time above, over whatever line there is.
_PARTS_AT_ONCE = 3
#: For a process that starts, and shall not hang on a store that is away.
_AT_START = {"connect_timeout": timedelta(seconds=4), "timeout": timedelta(seconds=8)}
#: The store compares what arrives with a digest that is sent along.
_CHECKED = {"checksum_algorithm": "SHA256"}
#: Of a page, as stores list: a request each.
_PAGE = 1000

#: Names the service whose results lie below the prefix.
OWNER_KEY = "zoetrope-service"
#: Object that a worker puts to check its permission.
PROBE_KEY = "zoetrope-probe"

#: Texts of the library's errors about an answer, and what S3's protocol has in it.
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE, _MESSAGE = re.compile(r"<Code>([^<]{1,80})</Code>"), re.compile(r"<Message>([^<]{1,200})</Message>")
_EFFORT = re.compile(r" in [0-9.]+[mµn]?s(, after \d+ retries, max_retries: \d+, retry_timeout: \w+ *)?")
#: Where a machine's role is requested when there are no keys.
_ROLE_ADDRESSES = ("169.254.169.254", "169.254.170.2")


class StoreError(Exception):
    """A request to the store failed; one sentence. To be tried again."""


class StoreRefused(StoreError):
    """The store refused the request: there is no such bucket, or the keys lack the permission. Its operator can change that."""


class NotThere(Exception):
    """There is no such object."""


class Stored(Struct, frozen=True):
    """An object: its key, bytes, Unix time."""

    key: str
    size: int
    at: float


class ObjectStore:
    """The files below one prefix of a bucket. Every method raises `StoreError`."""

    def __init__(self, store: Any) -> None:
        """`store`: one of obstore's, which is imported where there is one."""
        self._obstore = importlib.import_module(_MODULE)
        self._errors = importlib.import_module(f"{_MODULE}.exceptions")
        self._store = store

    @classmethod
    def of(cls, url: str, *, at_start: bool = False, sends: bool = False) -> ObjectStore:
        """The store of a URL of the right form; no request is sent yet. Raises `SettingsError`.

        `at_start`: do not wait for it long. `sends`: large files are put there, over a line of any speed, and no request waits for it.
        """
        stores = importlib.import_module(f"{_MODULE}.store")
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        options: dict[str, Any] = {"timeout": _LONGEST, "read_timeout": _SENT_WITHIN if sends else _SILENT}
        if at_start:
            options |= _AT_START
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True
        retries = {"max_retries": 0} if at_start else _RETRIES
        try:
            store = stores.S3Store(
                bucket, prefix=prefix or None, client_options=options, retry_config=retries, **_CHECKED
            )
        except Exception as error:  # the library's errors have no common base
            raise SettingsError(f"results_store: {url!r} cannot be used: {_error_text(error)}") from None
        return cls(store)

    def put(self, key: str, path: Path, size: int, sha256: str, *, again: bool = False) -> None:
        """Put a file; `again`: it may be there already."""
        if again and self._is_there(key, size, sha256):
            return
        with self._named(f"put {key}"):
            self._obstore.put(self._store, key, path, attributes={_SHA256: sha256}, max_concurrency=_PARTS_AT_ONCE)
        if not self._is_there(key, size, sha256):
            raise StoreError(f"the store has another object at {key} than was put there")

    def fetch(self, key: str, target: Path, sha256: str = "") -> float:
        """Write an object to the path `target`, whole and with this SHA-256, or not at all; its Unix time. "": the SHA-256 that it bears,
        if it does. Raises `NotThere`.
        """
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        digest = hashlib.sha256()
        try:
            with self._named(f"get {key}"), open(temporary, "xb") as file:
                found = self._obstore.get(self._store, key)
                sha256 = sha256 or found.attributes.get(_SHA256, "")
                for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                    data = bytes(chunk)
                    digest.update(data)
                    file.write(data)
                at = _unix(found.meta["last_modified"])
            if sha256 and digest.hexdigest() != sha256:
                raise StoreError(f"what the store has at {key} is not what was put there")
            os.utime(temporary, (at, at))
            os.replace(temporary, target)
        except OSError as error:
            # Another process may have made room in the cache meanwhile, or the disk is full.
            raise StoreError(f"what the store has at {key} cannot be kept here: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return at

    def remove(self, keys: Sequence[str]) -> None:
        """Remove these objects; also where they are gone."""
        if keys:
            with self._named(f"remove {keys[0]}"):
                self._obstore.delete(self._store, list(keys))

    def below(self, prefix: str, after: str = "") -> Iterator[Stored]:
        """Every object below `prefix/` whose key is behind `after`, in the order of keys; a request for each thousand that are taken."""
        offset = {"offset": after} if after else {}
        with self._named(f"list {prefix}"):
            for page in self._obstore.list(self._store, f"{prefix}/", chunk_size=_PAGE, **offset):
                for one in page:
                    yield Stored(str(one["path"]), int(one["size"]), _unix(one["last_modified"]))

    def names(self, prefix: str) -> list[str]:
        """The names of the objects right below `prefix/`."""
        return [one.key.rpartition("/")[2] for one in self.below(prefix)]

    # ------------------------------------------------------------ small objects

    def claim(self, service: str) -> str:
        """The id of the service whose prefix this is: this one's, where no service had it until now."""
        owner = self._text(OWNER_KEY)
        if not owner:
            # Another edge may be first.
            with self._named(f"put {OWNER_KEY}"), contextlib.suppress(self._errors.AlreadyExistsError):
                self._obstore.put(self._store, OWNER_KEY, service.encode(), mode="create")
            owner = self._text(OWNER_KEY)
        if not owner:
            raise StoreRefused(f"{OWNER_KEY} names no service: remove it")
        return owner

    def probe(self) -> None:
        """Put a small object, as it is to be seen whether that is allowed."""
        self.note(PROBE_KEY)

    def note(self, key: str) -> None:
        """Put an empty object, whose key is the information."""
        with self._named(f"put {key}"):
            self._obstore.put(self._store, key, b"\n")

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._named(f"look at {key}"):
                self._obstore.head(self._store, key)
        except NotThere:
            return False
        return True

    def read(self, key: str) -> bytes:
        """The bytes of a small object. Raises `NotThere`."""
        with self._named(f"get {key}"):
            return bytes(self._obstore.get(self._store, key).bytes())

    def _text(self, key: str) -> str:
        """Text of a small object; "" where there is none."""
        try:
            return self.read(key).decode("utf-8", "replace").strip()[:200]
        except NotThere:
            return ""

    def signed_url(self, key: str, good_s: float) -> str:
        """A presigned address of this object, valid for so long."""
        with self._named(f"sign {key}"):
            return str(self._obstore.sign(self._store, "GET", key, timedelta(seconds=good_s)))

    def _is_there(self, key: str, size: int, sha256: str) -> bool:
        try:
            with self._named(f"look at {key}"):
                found = self._obstore.get(self._store, key, options={"head": True})
                return bool(found.meta["size"] == size and found.attributes.get(_SHA256, sha256) == sha256)
        except NotThere:
            return False

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Turn what the library raises into `NotThere` and `StoreError`."""
        try:
            yield
        except (StoreError, NotThere):
            raise
        except Exception as error:  # the library's errors have no common base
            kind, reason = _kind_of(error), _error_text(error)
            if kind is NotThere:
                raise NotThere(reason) from None
            raise kind(f"the store cannot {what}: {reason}") from None


def _kind_of(error: Exception) -> type[Exception]:
    text = str(error)
    status = _STATUS.search(text)
    # A machine that has no role may as well answer 403 or 404 to a request for one.
    if any(address in text for address in _ROLE_ADDRESSES):
        return StoreRefused
    if "<Code>NoSuchBucket<" in text or (status and status[1] in ("401", "403")):
        return StoreRefused
    # A put can miss no object, but the bucket.
    if isinstance(error, FileNotFoundError):
        return StoreRefused if "performing PUT" in text else NotThere
    return StoreError


def _error_text(error: Exception) -> str:
    """Answer of the store, or the first line of the library's error: the others are for those who debug it."""
    text = str(error).strip()
    if any(address in text for address in _ROLE_ADDRESSES):
        return "there are no keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and this machine has no role that the store gives some for"
    if status := _STATUS.search(text):
        code, message = _CODE.search(text), _MESSAGE.search(text)
        return " ".join([status[1], *(found[1] for found in (code, message) if found)])
    # Durations differ with every try; the rest is logged once.
    return _EFFORT.sub("", (text.splitlines() or [type(error).__name__])[0])[:300]


def _unix(at: datetime) -> float:
    return at.timestamp()


def store_of(settings: CommonSettings, *, at_start: bool = False) -> ObjectStore | None:
    """The store that `results_store` names, see `ObjectStore.of`; None: there is none. Raises `SettingsError`."""
    url = settings.results_store
    if not url:
        return None
    if _URL.fullmatch(url) is None:
        raise SettingsError(
            f"results_store: {url!r} must be s3://BUCKET or s3://BUCKET/PREFIX; keys, region and endpoint are the environment's (AWS_…)"
        )
    if importlib.util.find_spec(_MODULE) is None:
        raise SettingsError(f"results_store: {url!r} needs obstore, which is not installed: {EXTRA}")
    return ObjectStore.of(url, at_start=at_start)

"""Results in an object store of S3's kind: `<prefix>/artefacts/<job>/<fence>/<name>`, as on an edge's disk.

Keys need no conditions: a fence is granted once, so that two writers of one key write the same bytes. Each object bears the SHA-256 of its
bytes, and who fetches it checks them. Credentials, region and endpoint are found as the store's own tools find them (`AWS_ACCESS_KEY_ID`,
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
from collections.abc import Iterator
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
#: Of the library itself, within one call: who asks tries again after a while.
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
#: The store compares what arrives with a digest that is sent along.
_CHECKED = {"checksum_algorithm": "SHA256"}


class StoreError(Exception):
    """The store did not do what it was asked; one sentence. To be tried again."""


class NotThere(Exception):
    """There is no such object."""


class Stored(Struct, frozen=True):
    """An object: its key, bytes, Unix time."""

    key: str
    size: int
    at: float


class ObjectStore:
    """The results below one prefix of a bucket. Every method raises `StoreError`."""

    def __init__(self, store: Any) -> None:
        """`store`: one of obstore's, which is imported where there is one."""
        self._obstore = importlib.import_module(_MODULE)
        self._store = store

    @classmethod
    def of(cls, url: str) -> ObjectStore:
        """The store of a URL of the right form. It is not asked anything yet. Raises `SettingsError`."""
        stores = importlib.import_module(f"{_MODULE}.store")
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        options = {"allow_http": True} if endpoint.startswith("http://") else {}
        try:
            store = stores.S3Store(
                bucket, prefix=prefix or None, client_options=options, retry_config=_RETRIES, **_CHECKED
            )
        except Exception as error:  # the library's errors have no common base
            raise SettingsError(f"results_store: {url!r} cannot be used: {_words(error)}") from None
        return cls(store)

    def put(self, key: str, path: Path, size: int, sha256: str, *, again: bool = False) -> None:
        """Put a file; `again`: it may be there already."""
        if again and self._is_there(key, size, sha256):
            return
        with self._named(f"put {key}"):
            self._obstore.put(self._store, key, path, attributes={_SHA256: sha256})
        if not self._is_there(key, size, sha256):
            raise StoreError(f"the store has another object at {key} than was put there")

    def fetch(self, key: str, target: Path, sha256: str) -> float:
        """Write an object to the path `target`, whole and with this SHA-256, or not at all; its Unix time. Raises `NotThere`."""
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        digest = hashlib.sha256()
        try:
            with self._named(f"get {key}"), open(temporary, "xb") as file:
                found = self._obstore.get(self._store, key)
                for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                    data = bytes(chunk)
                    digest.update(data)
                    file.write(data)
                at = _unix(found.meta["last_modified"])
            if digest.hexdigest() != sha256:
                raise StoreError(f"what the store has at {key} is not what was published")
            os.utime(temporary, (at, at))
            os.replace(temporary, target)
        except OSError as error:
            # Another process may have made room in the cache meanwhile, or the disk is full.
            raise StoreError(f"what the store has at {key} cannot be kept here: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return at

    def remove(self, prefix: str) -> None:
        """Remove every object below `prefix/`."""
        keys = [one.key for one in self.below(prefix)]
        if keys:
            with self._named(f"remove {prefix}"):
                self._obstore.delete(self._store, keys)

    def below(self, prefix: str) -> Iterator[Stored]:
        """Every object below `prefix/`."""
        with self._named(f"list {prefix}"):
            for page in self._obstore.list(self._store, f"{prefix}/"):
                for one in page:
                    yield Stored(str(one["path"]), int(one["size"]), _unix(one["last_modified"]))

    def names(self, prefix: str) -> list[str]:
        """The names right below `prefix/` that have something below them."""
        with self._named(f"list {prefix}"):
            found = self._obstore.list_with_delimiter(self._store, f"{prefix}/")["common_prefixes"]
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in found)

    def signed_url(self, key: str, good_s: float) -> str:
        """An address from which anybody may get this object for so long."""
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
        except FileNotFoundError as error:
            raise NotThere(str(error)) from None
        except Exception as error:  # the library's errors have no common base
            raise StoreError(f"the store cannot {what}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """The first line of what the library says: the others are for those who debug it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _unix(at: datetime) -> float:
    return at.timestamp()


def store_of(settings: CommonSettings) -> ObjectStore | None:
    """The store that `results_store` names; None: there is none. Raises `SettingsError`."""
    url = settings.results_store
    if not url:
        return None
    if _URL.fullmatch(url) is None:
        raise SettingsError(
            f"results_store: {url!r} must be s3://BUCKET or s3://BUCKET/PREFIX; keys, region and endpoint are the environment's (AWS_…)"
        )
    if importlib.util.find_spec(_MODULE) is None:
        raise SettingsError(f"results_store: {url!r} needs obstore, which is not installed: {EXTRA}")
    return ObjectStore.of(url)

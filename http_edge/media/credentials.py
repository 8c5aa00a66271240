"""Content credentials on the edge: pictures that are converted here are signed here, and files that come back are read."""

from __future__ import annotations

import io
import threading
from importlib import metadata
from pathlib import Path

from broker.runtime.content_credentials import (
    Credentials,
    NoCredentials,
    Signer,
    SigningError,
    checked_files,
    read_credentials,
)
from broker.runtime.credential_files import EXTRA, CredentialFiles, is_installed, read_pem
from broker.runtime.recipe_file import KEY, media_type_of
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings


class EdgeCredentials:
    """Signs and reads with what the settings name. The library is loaded for the first file."""

    def __init__(self, files: CredentialFiles | None, trusted: bytes) -> None:
        self._files = files
        self._trusted = trusted
        self._making = threading.Lock()
        self._signer: Signer | None = None

    @classmethod
    def of(cls, settings: EdgeSettings) -> EdgeCredentials:
        """Raises `SettingsError` for files that cannot be used."""
        path = settings.trusted_signers
        trusted = read_pem(str(Path(path).expanduser().absolute()), "trusted_signers") if path else b""
        return cls(checked_files(settings), trusted)

    def signed(self, data: bytes, media_type: str, recipe_json: str) -> bytes:
        """The file with signed content credentials; unchanged where nothing is signed. Blocks. Raises `EdgeError`."""
        if self._files is None:
            return data
        out = io.BytesIO()
        try:
            self._made(self._files).sign(io.BytesIO(data), out, media_type, recipe_json=recipe_json)
        except SigningError as error:
            raise EdgeError("internal", f"no {media_type} can be given: {error}") from error
        return out.getvalue()

    def _made(self, files: CredentialFiles) -> Signer:
        with self._making:
            if self._signer is None:
                self._signer = Signer(files, metadata.version(KEY))
            return self._signer

    def read(self, label: str, path: Path) -> Credentials:
        """The content credentials of a file, which stays as it is. Blocks. Raises `EdgeError`."""
        if not is_installed():
            message = f"this service cannot read content credentials: c2pa-python is not installed here ({EXTRA})"
            raise EdgeError("unsupported", message)
        try:
            with open(path, "rb") as file:
                media_type = media_type_of(file.read(16))
                if media_type is None:
                    raise NoCredentials("is no PNG, JPEG, WebP or MP4")
                return read_credentials(file, media_type, self._trusted)
        except NoCredentials as error:
            raise EdgeError("invalid_value", f"{label}: the file {error}", param=label, code="no_credentials") from None

"""Content credentials as a service makes them for itself at its first start."""

from __future__ import annotations

from pathlib import Path

from broker.runtime.credential_files import CredentialFiles, credential_files
from broker.runtime.settings import CommonSettings


def made_at(home: Path) -> CredentialFiles:
    made = credential_files(CommonSettings(home=str(home)))
    assert made is not None
    return made

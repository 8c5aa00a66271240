"""Inputs that came as files of a form: their roles, and their names in the generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from broker.wire.inputs import ROLES
from http_edge.base.errors import invalid
from http_edge.body.forms import Upload
from http_edge.jobs.fields import FIELDS
from http_edge.jobs.generation import Generation

#: Role -> the files that came for it.
Files = Mapping[str, Sequence[Upload]]


#: Fields that may be files in a form -> whether there may be several.
INPUT_FILES = {role: ROLES[role].most > 1 for role in ROLES}


def input_files(uploads: Mapping[str, Sequence[Upload]]) -> dict[str, list[Upload]]:
    """The files that came as further inputs, under whichever of their names."""
    found = {role: [file for name in FIELDS[role].names for file in uploads.get(name, ())] for role in ROLES}
    return {role: files for role, files in found.items() if files}


def fields_of(files: Files) -> tuple[str, ...]:
    """Names of the fields that these files came in."""
    return tuple(file.field for uploads in files.values() for file in uploads)


def with_files(generation: Generation, values: Mapping[str, Any], files: Files) -> Generation:
    """The generation with these files in it, by their names. Raises `EdgeError` for a field that came as text, too."""
    labels = dict(generation.labels)
    for role, uploads in files.items():
        texts = getattr(generation, role) or [values[name] for name in FIELDS[role].names if values.get(name)]
        if texts:
            raise invalid(generation.label(role), texts[0], f"came as a file, too, in {uploads[0].field}")
        labels[role] = uploads[0].field
    names = {role: tuple(file.file_name or "a file" for file in uploads) for role, uploads in files.items()}
    return msgspec.structs.replace(generation, labels=labels, **names)

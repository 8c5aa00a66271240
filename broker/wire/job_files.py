"""Names of a job's files beside its artefacts: checkpoints, drafts, previews. Engines and agents write them, edges read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Directory beside those of the jobs, in which each job that is drawn has one for its checkpoints.
CHECKPOINTS = ".checkpoints"

_CHECKPOINT = re.compile(r"(\d{1,6})-(\d{1,9})\.safetensors")


def checkpoint_name(output: int, step: int) -> str:
    """File of the state of an output (from 0) after a step, in its job's directory."""
    return f"{output}-{step}.safetensors"


def checkpoint_of(name: str) -> tuple[int, int] | None:
    """(output, step) of the checkpoint in a file of this name; None: it is no checkpoint's."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), int(match[2])) if match is not None else None


def newest_checkpoints(names: Iterable[str]) -> dict[int, int]:
    """The latest step of each output among the checkpoints of these names."""
    return dict(sorted(found for name in names if (found := checkpoint_of(name)) is not None))


_DRAFT = re.compile(r"draft(-[1-9][0-9]?)?\.(mp4|png)")


def draft_names(index: int) -> tuple[str, str]:
    """Files of a clip and of a picture beside a job's checkpoints: output `index` (from 0) as it was when the job was parked as a draft."""
    name = f"draft-{index + 1}" if index else "draft"
    return f"{name}.mp4", f"{name}.png"


def is_draft_name(name: str) -> bool:
    """Whether a file beside a job's checkpoints is a draft."""
    return _DRAFT.fullmatch(name) is not None


def preview_name(number: int) -> str:
    """File in the attempt's directory of the preview `number`, from 1; the second output's follow the first's. No artefacts."""
    return f"preview-{number}.png"


_PREVIEW = re.compile(re.escape(preview_name(0)).replace("0", r"(\d{1,3})"))


def preview_number(name: str) -> int:
    """The number in a preview's file name; 0 for another file's."""
    match = _PREVIEW.fullmatch(name)
    return int(match[1]) if match is not None else 0

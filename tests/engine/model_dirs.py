"""Directories of models as a hub has them, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def model_dir(directory: Path, pipeline: str, index: Any = None, **configs: Any) -> str:
    """A model's directory with configs and no weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **(index or {})}))
    for part, config in configs.items():
        (directory / part).mkdir()
        (directory / part / "config.json").write_text(json.dumps(config))
    return str(directory)

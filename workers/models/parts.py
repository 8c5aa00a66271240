"""Files that replace components of a model: `parts` in its table."""

from __future__ import annotations

#: Component of the pipeline (as "transformer") -> file.
Parts = dict[str, str]

"""Where a model's weights lie while it draws: `placement` in its table."""

from __future__ import annotations

#: Chosen by the memory that there is.
AUTO = "auto"

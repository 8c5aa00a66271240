"""Base of errors that carry their default message in their docstring."""

from __future__ import annotations


class DescribedError(Exception):
    """An error whose message, unless one is given, is the first line of its class's docstring."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])

"""Errors of an agent. One base; a class's docstring is its default message."""

from __future__ import annotations


class AgentError(Exception):
    """The agent cannot go on."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class EngineStateError(AgentError):
    """The engine's state does not allow this: a bug in the agent."""


class LinkError(AgentError):
    """The supervisor's link did not bring a configuration."""

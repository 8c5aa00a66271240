"""Errors of an agent. One base; a class's docstring is its default message."""

from __future__ import annotations

from broker.runtime.described_error import DescribedError


class AgentError(DescribedError):
    """The agent cannot go on."""


class EngineStateError(AgentError):
    """The engine's state does not allow this: a bug in the agent."""


class LinkError(AgentError):
    """The supervisor's link did not bring a configuration."""

"""Errors of an agent. One base; a class's docstring is its default message."""

from __future__ import annotations

from broker.runtime.described_error import DescribedError


class AgentError(DescribedError):
    """The agent cannot go on."""


class EngineStateError(AgentError):
    """The engine's state does not allow this: a bug in the agent."""


class AddressError(AgentError):
    """The address at which the agent is to listen is not there, which may change."""


class LinkError(AgentError):
    """The supervisor's link did not bring a configuration."""

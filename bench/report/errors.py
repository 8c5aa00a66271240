"""Errors of measurements."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement could not be made: one sentence for the user."""


class BadPlan(BenchError):
    """The measurement requested makes no sense: one sentence naming the option, the value and the rule."""

"""LightX2V's APIs."""

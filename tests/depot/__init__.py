"""Depots: what must hold of every kind."""

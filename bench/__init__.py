"""Measurements of the real thing, each with its circumstances: `python -m bench --help`."""

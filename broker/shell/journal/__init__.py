"""The journal: every accepted job in one SQLite file."""

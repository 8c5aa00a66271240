"""Needs of every process besides messages: settings, logs, signals, limits, key files, pictures."""

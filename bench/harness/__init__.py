"""Processes, simulated workers and clients that measurements share."""

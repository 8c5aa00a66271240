"""Processes and services that several suites of tests start."""

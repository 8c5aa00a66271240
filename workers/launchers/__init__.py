"""Launchers: what starts and ends workers on other machines by what waits in the queue."""

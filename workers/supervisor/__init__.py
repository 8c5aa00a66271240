"""The parent of all agents of a host: starts, restarts and drains them."""

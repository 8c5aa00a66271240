"""The client library: operations as flows, told once, and the two clients that carry them out over httpx."""

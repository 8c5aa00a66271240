"""The client library: operations as flows, written once, and the two clients that carry them out over httpx."""

"""Models on this host and their abilities, read without torch."""

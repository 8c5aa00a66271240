"""Groups over several machines: what the leader of one and the rank hosts of its other machines say, and decide."""

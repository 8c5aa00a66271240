"""A conformance suite: pipelines of every family that people run, tiny and random, through the engine as a worker runs them."""

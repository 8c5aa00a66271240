"""Messages on a socketpair and counters in shared memory, between an agent and its engine."""

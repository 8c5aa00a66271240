"""Between an agent and its engine: messages on a socketpair, and counters in shared memory."""

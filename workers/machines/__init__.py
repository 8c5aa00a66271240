"""Groups over several machines: messages between a leader and its rank hosts, and the decisions of both."""

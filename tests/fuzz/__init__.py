"""Whatever bytes arrive: the declared error or a message, and a message that encodes to itself."""

"""Jobs as the edge handles them: submission, the broker's client, events, models."""

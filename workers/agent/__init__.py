"""The agent: the half of a worker that is connected to the broker and keeps an engine. No torch here."""

"""The agent: the half of a worker that talks to the broker and keeps an engine. No torch here."""

"""HTTP itself: routing, files, preferences, disconnects."""

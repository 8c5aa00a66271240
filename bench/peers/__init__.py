"""Other queues, measured through the same runs."""

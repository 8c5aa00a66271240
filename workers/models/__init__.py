"""What the models on this host can do, read without torch."""

"""A worker's side of a depot: its files are put there, and the inputs of its jobs fetched."""

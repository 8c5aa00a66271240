"""The broker: queue, journal and scheduler between HTTP edges and GPU workers. Importing it imports nothing else."""

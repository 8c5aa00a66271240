"""Reports, plots, bars and statistics."""

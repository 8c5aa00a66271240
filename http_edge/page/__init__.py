"""The web page at `/`: its files, and what serves them."""

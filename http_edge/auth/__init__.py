"""Authentication: API keys, web pages of other origins, names of this host."""

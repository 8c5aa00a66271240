"""Who may ask: API keys, web pages of other origins, names of this host."""

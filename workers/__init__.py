"""Workers: one agent (the link to the broker) and one engine (torch) for each GPU, under one supervisor."""

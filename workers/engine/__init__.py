"""The engine: the process that loads pipelines and draws. No sockets of the broker here."""

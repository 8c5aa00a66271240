"""The broker's shell: sockets, journal, clock and metrics around the core."""

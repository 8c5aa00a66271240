"""The command `zoetrope`: what the client library does, on a terminal."""

"""The broker's sockets: listening, access, and limits of what a peer may send."""

"""The broker's sockets: listening, who may connect, what a peer may send."""

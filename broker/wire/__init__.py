"""The contract: every struct that crosses a socket, and how it becomes bytes. Standard library and msgspec only."""

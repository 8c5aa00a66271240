"""The broker's logic, without sockets, clocks, threads or files: messages and the time go in, effects come out."""

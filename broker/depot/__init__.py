"""Depots: where the files of jobs lie when machines share no disk, and the tokens by which they may be put and read."""

"""Depots: where the files of jobs lie when machines share no disk, and who may put and get them."""

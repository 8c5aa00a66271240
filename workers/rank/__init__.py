"""The command `python -m workers.rank`: a machine of a group that another machine leads."""

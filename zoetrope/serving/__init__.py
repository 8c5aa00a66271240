"""Starting the whole service on one machine, in the foreground."""

"""What strangers, bad peers and bad input must not be able to do."""

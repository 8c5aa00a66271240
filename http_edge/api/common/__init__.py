"""What several API families share."""

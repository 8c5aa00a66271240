"""Parts shared by the API families."""

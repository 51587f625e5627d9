"""What items say and show, as vectors, and what the rivals that learn from it share."""

"""What items say and show, as vectors, and what the baselines that learn from it share."""

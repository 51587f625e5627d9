"""Content of items as frozen vectors, and parts of the baselines that learn from it."""

"""Frozen content vectors of items, and shared parts of the baselines that learn from them."""

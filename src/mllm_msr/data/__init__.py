"""Data preparation: filtering, user histories, splits, candidate sampling and images."""

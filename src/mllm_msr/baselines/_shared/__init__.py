"""Shared parts of all baselines: histories as sparse rows, scoring, saved state."""

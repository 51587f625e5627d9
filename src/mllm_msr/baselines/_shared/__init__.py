"""Parts of the baselines that need no network: histories as sparse rows, scoring, saved state."""

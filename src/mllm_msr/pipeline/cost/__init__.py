"""Cost estimate of a run: token counting, estimation and report."""

"""Cost estimates before a run, and the cost report after it."""

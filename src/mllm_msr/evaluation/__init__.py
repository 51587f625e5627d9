"""The judge: metrics per user, intervals, tests and the report."""

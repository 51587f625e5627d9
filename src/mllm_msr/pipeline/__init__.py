"""The pipeline of a run, from prepare to report, and comparisons and searches over runs."""

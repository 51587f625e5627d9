"""The first two steps of the paper: item summaries and user preferences."""

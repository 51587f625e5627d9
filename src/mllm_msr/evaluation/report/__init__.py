"""The HTML and Markdown report of a run, and the report that compares runs."""

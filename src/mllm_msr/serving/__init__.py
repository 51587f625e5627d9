"""HTTP service for a finished run: recommendations, events, preferences, new items and a page."""

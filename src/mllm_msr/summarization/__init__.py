"""The paper's first two steps: summarization of items and inference of user preferences."""

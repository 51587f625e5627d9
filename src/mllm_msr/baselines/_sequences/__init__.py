"""What the rivals share that read a history from left to right."""

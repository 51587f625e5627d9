"""What the rivals share that ask a language model."""

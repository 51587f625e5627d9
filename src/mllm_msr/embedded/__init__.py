"""The packaged small model: its generated world, its training recipe and its weights."""

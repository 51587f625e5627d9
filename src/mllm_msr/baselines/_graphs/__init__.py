"""What the rivals share that send messages along the edges of a graph."""

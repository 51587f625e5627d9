"""What the baselines share that send messages along the edges of a graph."""

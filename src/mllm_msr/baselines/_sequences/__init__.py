"""What the baselines share that read a history from left to right."""

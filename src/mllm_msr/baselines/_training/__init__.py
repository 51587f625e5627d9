"""Training shared by the neural baselines: histories, sampling, loop, validation, checkpoints."""

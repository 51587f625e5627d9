"""Loading of checkpoints, and preparation of prompts and images as model inputs."""

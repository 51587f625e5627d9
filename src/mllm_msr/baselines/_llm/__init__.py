"""What the baselines share that ask a language model."""

"""Loading of checkpoints, conversion of prompts to model inputs, and frozen encoders."""

"""The local inference engine for Transformers models."""

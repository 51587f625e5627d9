"""Inference optimizations: response caching, batching, prefix sharing and Ray actors."""

"""Backends: models that answer prompts, one file each; users select them by file name."""

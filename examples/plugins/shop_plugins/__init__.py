"""Plugins for MLLM-MSR: its entry points in `pyproject.toml` name the classes."""

"""Evaluation of models: metrics per user, means with intervals, significance tests, and report."""

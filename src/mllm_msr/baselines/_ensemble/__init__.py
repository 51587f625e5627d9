"""Stacking of several recommenders' scores, for `hybrid.py`."""

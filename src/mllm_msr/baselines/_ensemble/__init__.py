"""One score out of several models, for `hybrid.py`."""

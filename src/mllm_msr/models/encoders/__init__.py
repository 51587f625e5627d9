"""Frozen encoders that turn texts and images into vectors.

Used by retrieval (`recommend/`) and by baselines that read item content (`baselines/_content/`).
`factory.py` opens an encoder by its name, `base.py` and `checkpoint.py` hold shared parts, and
every other module is one kind of encoder.
"""

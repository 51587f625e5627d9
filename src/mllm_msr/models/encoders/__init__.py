"""Frozen encoders that turn texts and images into vectors.

Retrieval (`recommend/`) and the baselines that read item content (`baselines/_content/`) share
them. `factory.py` opens an encoder by its name; every other module is one kind of encoder.
"""

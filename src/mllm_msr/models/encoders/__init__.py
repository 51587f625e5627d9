"""Frozen encoders that turn texts and images into vectors.

Used by retrieval (`recommend/`) and by baselines that read item content (`baselines/_content/`).
`text/` and `image/` contain one file per encoder, and `factory.py` opens an encoder by its name.
`transformers_text.py` and `transformers_image.py` open checkpoints, `lsa.py` is the default encoder
of retrieval, and `base.py`, `checkpoint.py` and `packages.py` hold shared parts.
"""

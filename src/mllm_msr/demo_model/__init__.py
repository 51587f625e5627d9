"""The packaged small model: its generated world, its training recipe and its weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def weights_folder() -> Path:
    """Folder of the packaged model's files, a Hugging Face checkpoint."""
    return Path(str(files("mllm_msr.demo_model") / "weights"))

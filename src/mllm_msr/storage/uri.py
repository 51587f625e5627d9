"""Addresses of object storage (s3://, gs://, ...) where a folder of this machine is needed.

Runs work on a local disk: their lock, their renames and their SQLite file have no like in object
storage. So data sets and run folders are pulled before the work and pushed after it; see
`storage/transfer.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mllm_msr.errors import RunFolderError

# As a Path, "s3://bucket/run" has lost one of its slashes.
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")


def require_local(path: Path | str) -> Path:
    """The path itself, after making sure that it is one of this machine.

    Raises:
        RunFolderError: It is an address of object storage.
    """
    found = _ADDRESS.match(str(path))
    if found:
        address = f"{found[1]}://{str(path)[found.end() :]}"
        raise RunFolderError(
            needed="a folder on a disk of this machine",
            received=address,
            remedy=f"run 'mllm-msr pull {address} FOLDER' before, and 'mllm-msr push' after",
        )
    return Path(path)

"""Detection of object storage addresses (s3://, gs://, ...) where a local path is required.

Run folders need a local disk: object storage has neither locks nor renames, and SQLite cannot
write to it. Datasets and run folders are therefore pulled before a run and pushed after it, see
`storage/transfer.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mllm_msr.errors import RunFolderError

# Path("s3://bucket/run") drops one of the slashes.
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")


def require_local(path: Path | str) -> Path:
    """Return a path after checking that it is not an address of object storage.

    Raises:
        RunFolderError: It is an address of object storage.
    """
    found = _ADDRESS.match(str(path))
    if found:
        address = f"{found[1]}://{str(path)[found.end() :]}"
        raise RunFolderError(
            f"{address} is not a folder on a local disk. Run 'mllm-msr pull {address} FOLDER' "
            "first, use FOLDER, and run 'mllm-msr push' afterwards."
        )
    return Path(path)

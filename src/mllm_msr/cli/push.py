"""`push`: copy a folder to object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import AddressArgument, JsonOption, parse_path
from mllm_msr.cli._output import emit


@register("push", "Copy a folder to object storage")
def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Local folder to copy.", parser=parse_path)
    ],
    address: AddressArgument,
    as_json: JsonOption = False,
) -> None:
    """Copy a run folder or another folder to object storage.

    A run folder is copied including its caches.
    """
    from mllm_msr.storage.transfer import push_folder

    n_files = push_folder(folder, address)
    values = {"address": address, "files": n_files}
    emit(values, as_json=as_json, plain=f"Copied {n_files:,} files to {address}.")

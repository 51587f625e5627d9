"""`pull`: copy a folder from object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import AddressArgument, JsonOption, parse_path
from mllm_msr.cli._output import emit


@register("pull", "Copy a folder from object storage")
def command(
    address: AddressArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Local folder to copy to.", parser=parse_path)
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy a folder from object storage to a local folder."""
    from mllm_msr.storage.transfer import pull

    n_files = pull(address, folder)
    values = {"folder": str(folder), "files": n_files}
    emit(values, as_json=as_json, plain=f"Copied {n_files:,} files to {folder}.")

"""`pull`: copy a folder from object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import app
from mllm_msr.cli._options import AddressArgument, JsonOption, parse_path
from mllm_msr.cli._output import emit


@app.command("pull")
def command(
    address: AddressArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Local folder to copy to.", parser=parse_path)
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy a folder from object storage to a local folder."""
    from mllm_msr.storage.transfer import pull

    emit({"folder": str(folder), "files": pull(address, folder)}, as_json=as_json)

"""`pull` and `push`: folders from object storage before the work, and to it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import JsonOption
from mllm_msr.cli.output import emit

_Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="s3://..., gs://..., ...")]


@app.command("pull")
def _pull(
    address: _Address,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a data set or a run folder from object storage to this machine."""
    from mllm_msr.storage.transfer import pull

    emit({"folder": str(folder), "files": pull(address, folder)}, as_json=as_json)


@app.command("push")
def _push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What is copied.")],
    address: _Address,
    as_json: JsonOption = False,
) -> None:
    """Copy a run folder, responses and all, or any other folder to object storage."""
    from mllm_msr.storage.transfer import push_folder

    emit({"address": address, "files": push_folder(folder, address)}, as_json=as_json)

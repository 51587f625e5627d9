"""`export`: write the adapter of a run as a folder for a model hub, and upload it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import JsonOption, RunOption, parse_path
from mllm_msr.cli._output import emit
from mllm_msr.errors import UsageError


@register("export", "Export the adapter of a run for a model hub")
def command(
    adapter: Annotated[
        Path,
        typer.Option(
            "--adapter", metavar="DIR", help="Folder to write; new or empty.", parser=parse_path
        ),
    ],
    run: RunOption = Path("runs/run"),
    fold: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Fold of the adapter; by default the first one."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload the folder to this repository of the hub; HF_TOKEN is the token.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, not private.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the LoRA adapter of a run, its settings and a model card to a folder.

    The card is made from the run: data, training, prompt, results with intervals and their limits.
    """
    if public and push is None:
        raise UsageError("--public is given, but nothing is uploaded. Add --push OWNER/NAME.")
    from mllm_msr.pipeline.adapter_export import export_adapter, push_adapter

    export = export_adapter(run, adapter, fold=fold)
    url = push_adapter(adapter, push, private=not public) if push else None
    values = {
        "folder": str(export.folder),
        "base_model": export.base_model,
        "files": list(export.files),
        "url": url,
    }
    plain = (
        f"Wrote {len(export.files)} files to {export.folder}. Read README.md before you share it."
    )
    emit(values, as_json=as_json, plain=f"{plain}\nUploaded: {url}" if url else plain)

"""The command line `mllm-msr`: one module per command, named after it.

Importing a module registers its command with `app`. Every module here whose name does not start
with an underscore is imported, so a new command only needs a new file. These modules import the
rest of the package inside their functions, so that `mllm-msr --help` loads neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
import pkgutil

from mllm_msr.cli._app import app, main

__all__ = ["app", "main"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

"""The command `mllm-msr`: one file per group of commands; nothing but these files prints.

A new command is a new file here that registers itself with `app`, and its name below.
"""

from __future__ import annotations

from mllm_msr.cli import (
    compare,
    doctor,
    experiment,
    list_names,
    plan,
    recommend,
    serve,
    stages,
    transfer,
    tune,
)
from mllm_msr.cli.app import app, main

__all__ = [
    "app",
    "compare",
    "doctor",
    "experiment",
    "list_names",
    "main",
    "plan",
    "recommend",
    "serve",
    "stages",
    "transfer",
    "tune",
]

"""Run benchmarks: `python -m benchmarks [NAME] [--json] [--save] [--option VALUE ...]`.

`python -m benchmarks --page` only writes docs/speed.md from the saved results.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import benchmarks
from benchmarks._page import page
from mllm_msr.cli import _logging
from mllm_msr.models import cpu_runtime

RESULTS: Final = Path(__file__).parent / "results"
_PAGE: Final = Path(__file__).parents[1] / "docs" / "speed.md"
# Values that are omitted from a result's file name.
_DEFAULTS: Final = {"shapes": "demo", "device": "cpu", "dtype": "float32"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmark, or all of them, and print the results.

    Returns:
        The exit code: 0 for success, 2 for wrong usage.
    """
    cpu_runtime.set_defaults()
    _logging.configure()
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not (module.name.startswith("_") or module.ispkg)
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, add_help=False
    )
    parser.add_argument("name", nargs="?", choices=names, help="benchmark to run; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", action="store_true", help="save the result in benchmarks/results")
    parser.add_argument("--page", action="store_true", help="write docs/speed.md, measure nothing")
    parser.add_argument("--help", action="store_true", help="show this help, or NAME's options")
    selected, rest = parser.parse_known_args(arguments)
    if selected.help and not selected.name:
        parser.print_help()
        return 0
    if selected.page:
        _PAGE.write_text(page(RESULTS), encoding="utf-8")
        return 0
    rest += ["--help"] if selected.help else []
    for name in [selected.name] if selected.name else names:
        result = _run(name, rest)
        text = json.dumps(result, indent=2)
        if selected.save:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{result_name(name, result)}.json").write_text(text + "\n", "utf-8")
            _PAGE.write_text(page(RESULTS), encoding="utf-8")
        print(text if selected.json else "\n".join(f"{k:28} {v}" for k, v in result.items()))
    return 0


def result_name(name: str, result: Mapping[str, Any]) -> str:
    """Return the name of a result's file: the benchmark, and its model, device and dtype.

    Default values of model, device and dtype are omitted.
    """
    values = (str(result.get(key, default)) for key, default in _DEFAULTS.items())
    return "-".join([name, *(value for value in values if value not in _DEFAULTS.values())])


def _run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark; the parameters of its function `run` are its options."""
    run = importlib.import_module(f"benchmarks.{name}").run
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=inspect.getdoc(run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, parameter in inspect.signature(run).parameters.items():
        flag = f"--{option.replace('_', '-')}"
        options.add_argument(flag, type=type(parameter.default), default=parameter.default)
    result: dict[str, Any] = run(**vars(options.parse_args(arguments)))
    return result


if __name__ == "__main__":
    # SystemExit runs the `finally` blocks, so that servers started by a benchmark stop with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

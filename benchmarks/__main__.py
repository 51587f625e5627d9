"""`python -m benchmarks [NAME] [--json] [--save] [--option value ...]`: run benchmarks."""

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
from mllm_msr.models import cpu_runtime

RESULTS: Final = Path(__file__).parent / "results"
_PAGE: Final = Path(__file__).parents[1] / "docs" / "speed.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the arguments name and print its result.

    Returns:
        The exit code: 0 done, 2 wrong usage.
    """
    cpu_runtime.set_defaults()
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.name.startswith("_")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names, help="all of them where left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", action="store_true", help="keep it in benchmarks/results/")
    chosen, rest = parser.parse_known_args(arguments)
    for name in [chosen.name] if chosen.name else names:
        result = _run(name, rest)
        text = json.dumps(result, indent=2)
        if chosen.save:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{_stem(name, result)}.json").write_text(text + "\n", encoding="utf-8")
            _PAGE.write_text(page(RESULTS), encoding="utf-8")
        print(text if chosen.json else "\n".join(f"{k:28} {v}" for k, v in result.items()))
    return 0


def _stem(name: str, result: Mapping[str, Any]) -> str:
    """Name of a result's file: other models, devices and precisions have files of their own."""
    usual = {"shapes": "demo", "device": "cpu", "dtype": "float32"}
    given = (str(result.get(key, value)) for key, value in usual.items())
    return "-".join([name, *(value for value in given if value not in usual.values())])


def _run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark; its function's parameters are its options."""
    run = importlib.import_module(f"benchmarks.{name}").run
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=inspect.getdoc(run)
    )
    for option, parameter in inspect.signature(run).parameters.items():
        flag = f"--{option.replace('_', '-')}"
        options.add_argument(flag, type=type(parameter.default), default=parameter.default)
    result: dict[str, Any] = run(**vars(options.parse_args(arguments)))
    return result


if __name__ == "__main__":
    # Leaves by the way of errors, so that a server that a benchmark has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

"""`python -m benchmarks NAME [--json] [--option value ...]`: run one benchmark."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the arguments name and print its result.

    Returns:
        The exit code: 0 done, 2 wrong usage.
    """
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.name.startswith("_")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen, rest = parser.parse_known_args(arguments)
    run = importlib.import_module(f"benchmarks.{chosen.name}").run
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks {chosen.name}", description=inspect.getdoc(run)
    )
    for name, parameter in inspect.signature(run).parameters.items():
        flag = f"--{name.replace('_', '-')}"
        options.add_argument(flag, type=type(parameter.default), default=parameter.default)
    result = run(**vars(options.parse_args(rest)))
    if chosen.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key:28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

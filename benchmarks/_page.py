"""docs/speed.md out of the results that `python -m benchmarks NAME --save` kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_TITLES: Final = {
    "scoring": ("Scoring 1:20 candidate lists", "pairs"),
    "preferences": ("Preferences from histories of twelve items", "users"),
    "summaries": ("Item summaries", "items"),
    "training": ("Fine-tuning by LoRA", "samples"),
}
# Ratios that were aimed at, against the released way and against the strong one, on a CPU.
_TARGETS: Final = {
    "scoring": (20, 3),
    "preferences": (10, 1.5),
    "summaries": (4, 1.2),
    "training": (4, 2),
}
_INTRODUCTION: Final = """\
# Speed

Made by `python -m benchmarks NAME --save` from `benchmarks/results/`; do not edit.

Three ways do the same work with the same checkpoint, in one run and in turn:

- **released**: the released code's way, written anew: six pairs a batch, each with its picture
  encoded, thirty tokens generated to read the logits of one; one user after another; one example
  a training step, the loss of the whole prompt;
- **strong**: what a good engineer writes with Transformers: batches of like lengths, one forward
  pass, logits of the last position alone, nothing shared between prompts;
- **ours**: the backends and the trainer of this package.

A ratio is our rate over the other's, a median over the repeats of one run. On a CPU, seconds are
processor seconds, since the machine may do other work. Operations of tower and decoder for every
different token (all layers counted, attention not) per second are set against the machine's own
matrix products in the same precision and number of threads.
"""
_COMMANDS: Final = """\
## Run them

```sh
make bench                                   # all, at the packaged model's size
python -m benchmarks scoring --save          # one of scoring, preferences, summaries, training
python -m benchmarks scoring --shapes middle --users 4 --items 21 --released-pairs 6 \\
    --strong-pairs 32 --batch-size 16 --repeats 3 --growth 4 --save
# On a GPU, at the shapes of LLaVA-v1.6-mistral-7b with random weights:
python -m benchmarks scoring --device cuda --shapes 7b --batch-size 32 --save
python -m benchmarks training --device cuda --shapes 7b --batch-size 4 --samples 64 --save
python -m benchmarks summaries --device cuda --shapes 7b --new-tokens 64 --save
python -m benchmarks preferences --device cuda --shapes 7b --new-tokens 64 --save
```

Not measured so far: any GPU, and a serving engine (vLLM) beside ours.
"""


def page(results: Path) -> str:
    """The page.

    Args:
        results: Folder of the results' JSON files.
    """
    parts = [_INTRODUCTION]
    for name in _TITLES:
        found = sorted(results.glob(f"{name}*.json"))
        parts += [_section(name, json.loads(path.read_text(encoding="utf-8"))) for path in found]
    parts.append((results.parent / "speed_notes.md").read_text(encoding="utf-8"))
    return "\n".join([*parts, _COMMANDS])


def _section(name: str, result: Mapping[str, Any]) -> str:
    title, units = _TITLES[name]
    rates = result["per_second"]
    lines = [
        f"## {title}: {result['shapes']}, {result['dtype']}, {result['device']}",
        "",
        f"| | {units} per second | tokens per second | ours is faster by | aimed at |",
        "|---|---|---|---|---|",
    ]
    for way, target in zip(("released", "strong"), _TARGETS[name], strict=True):
        aim = f"{target}x" if result["device"] == "cpu" else ""
        ratio = result["ratios"][way]
        tokens = result["tokens_per_second"][way]
        lines.append(f"| {way} | {rates[way]:g} | {tokens:g} | {ratio:g}x | {aim} |")
    load = f"{result['load_before']}, {result['load_after']}"
    needed = f"{result['unique_gflops']} of {result['matmul_gflops']} GFLOP/s"
    lines += [
        f"| ours | {rates['ours']:g} | {result['tokens_per_second']['ours']:g} | | |",
        "",
        f"Operations: {needed}, {result['share_of_matmul']:.0%}. {_agreement(result)}",
        f"Load of the machine before and after: {load}.",
    ]
    growth = result.get("growth")
    if growth:
        first, last = growth["peak_gb"]
        lines.append(
            f"{growth['work_times']:g} times the work took {growth['time_times']} times the time; "
            f"peak memory {first} GB and {last} GB."
        )
    return "\n".join([*lines, ""])


def _agreement(result: Mapping[str, Any]) -> str:
    if "largest_difference" in result:
        return f"Largest difference to strong: {result['largest_difference']:.1g}."
    return f"Answers equal to strong's: {result['share_of_equal_answers']:.1%}."

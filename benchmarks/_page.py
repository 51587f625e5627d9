"""docs/speed.md out of the results that `python -m benchmarks NAME --save` kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

_TITLES: Final = {
    "scoring": ("Scoring 1:20 candidate lists", "pairs"),
    "preferences": ("Preferences from histories of twelve items", "users"),
    "summaries": ("Item summaries", "items"),
    "training": ("Fine-tuning by LoRA", "samples"),
}
# Ratios that were aimed at on a CPU; above vLLM is above 1.
_TARGETS: Final[Mapping[str, Mapping[str, float]]] = {
    "scoring": {"released": 20, "strong": 3, "vllm": 1},
    "preferences": {"released": 10, "strong": 1.5, "vllm": 1},
    "summaries": {"released": 4, "strong": 1.2},
    "training": {"released": 4, "strong": 2},
}
_INTRODUCTION: Final = """\
# Speed

Made by `python -m benchmarks NAME --save` from `benchmarks/results/`; do not edit.

Several ways do the same work with the same checkpoint, in one run and in turn:

- **released**: the released code's way, written anew: six pairs a batch, each with its image
  encoded, thirty tokens generated to read the logits of one; one user after another; one example
  a training step, the loss of the whole prompt;
- **strong**: what a good engineer writes with Transformers: batches of like lengths, one forward
  pass, logits of the last position alone, nothing shared between prompts;
- **vllm**: vLLM's server (its build for CPUs, version 0.32) on the same machine, with prefix
  caching, as many prompts at once and as many threads as ours, asked through the backend
  `openai`; it forgets what it has read before each repeat. Its attention knows no heads of 40
  numbers, as the packaged model has: they are filled up to 64 with zeros, a fifth more operations
  for each token;
- **ours**: the backends and the trainer of this package.

A ratio is our rate over the other's, a median over the repeats of one run. On a CPU, seconds are
processor seconds, since the machine may do other work. vLLM's are those of the server and of the
process that asks it together or those on the clock, whichever are fewer: its processes work beside
each other, on two cores where ours has one, and spin while they wait. Operations of tower and
decoder for every different token (all layers counted, attention not) per second are set against
the machine's own matrix products in the same precision and number of threads.
"""
_COMMANDS: Final = """\
## Run them

```sh
make vllm                                    # vLLM in build/vllm, to be measured too
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

Not measured so far: any GPU.
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
    for way, ratio in result["ratios"].items():
        target = _TARGETS[name].get(way)
        aim = f"{target:g}x" if target and result["device"] == "cpu" else ""
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
    if seconds := result.get("vllm_seconds"):
        each = (f"{median(values):.3g} {kind}" for kind, values in seconds.items())
        lines.append(f"vLLM's seconds of a repeat: {', '.join(each)}.")
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
        known = {"strong": "largest_difference", "vllm": "largest_difference_to_vllm"}
        given = [f"to {way} {result[key]:.1g}" for way, key in known.items() if key in result]
        return f"Largest difference {', '.join(given)}."
    known = {"strong": "share_of_equal_answers", "vllm": "share_of_answers_equal_to_vllm"}
    given = [f"to {way}'s {result[key]:.1%}" for way, key in known.items() if key in result]
    return f"Answers equal {', '.join(given)}."

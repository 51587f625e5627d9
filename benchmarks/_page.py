"""Generate docs/speed.md from the results that `python -m benchmarks NAME --save` saves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks._families import families_section

_TITLES: Final = {
    "scoring": ("Scoring 1:20 candidate lists", "pairs"),
    "candidate_lists": ("Scoring the list of one user", "pairs"),
    "preferences": ("Preferences from histories of twelve items", "users"),
    "summaries": ("Item summaries", "items"),
    "training": ("LoRA fine-tuning", "samples"),
}
# Quantity whose largest difference between two implementations is reported.
_DIFFERENCES: Final = {
    "scoring": "log-probabilities",
    "candidate_lists": "log-probabilities",
    "training": "losses",
}
# Target speedups by benchmark, device and model.
_TARGETS: Final[Mapping[tuple[str, str, str], Mapping[str, float]]] = {
    ("scoring", "cpu", "smolvlm2-256m"): {"strong": 5, "vllm": 1.5},
    ("scoring", "cuda", "qwen3-vl-2b"): {"strong": 3, "vllm": 1},
    ("candidate_lists", "cpu", "smolvlm2-256m"): {"whole prompts": 5, "vllm": 1},
    ("preferences", "cpu", "smollm"): {"strong": 1.2, "vllm": 1},
    ("summaries", "cpu", "smolvlm2-256m"): {"strong": 1.2, "vllm": 1},
    ("training", "cpu", "smolvlm2-256m"): {"strong": 3},
}
_INTRODUCTION: Final = """\
# Speed

Generated from `benchmarks/results/` by `python -m benchmarks NAME --save` and `make docs`.

## Method

Up to four implementations do the same work with the same checkpoint, alternately in one run:

- **released**: our reimplementation of the computations in the released code. Scoring processes
  batches of six pairs, encodes the image of every pair, and generates thirty tokens but only uses
  the logits of the first. Preferences are inferred for one user after another. Training has one
  example per step and computes the loss over the whole prompt.
- **strong**: well-written Transformers code. It has batches of similar lengths, and computes the
  logits of the last position only, in one forward pass. Nothing is shared between prompts.
- **vllm**: vLLM's server (CPU build, version 0.32) on the same machine, called through the backend
  `openai`. It has prefix caching, and the same batch size and number of threads as ours. Its caches
  are reset before each repeat. Its attention does not support the demo model's head size of 40,
  so heads are padded to 64 with zeros, which adds a fifth of the operations per token.
- **ours**: the backends and the trainer of this package.

The model `demo` is the demo model with 8.4 million parameters. The model `middle` has 134
million random parameters. Models named after a checkpoint, such as `smolvlm2-256m`, have its sizes
and random weights. `smollm` is the [pretrained model](models.md#a-small-model-from-pip) with
SmolLM2-135M; vLLM serves its language model only, for preferences.

For the list of one user, all implementations score the same candidates with prompts that begin with
the user (`recommend.order=user-first`), except those named item-first. "Whole prompts" is the
implementation strong. Implementations named cached have seen the items before, like a service.

A speedup is our rate divided by the other rate, the median over the repeats of one run. On a CPU,
seconds are processor seconds, because the machine may have other load. For vLLM, they are the
processor seconds of the server and of the calling process together, or the elapsed seconds if these
are fewer: its processes run in parallel on two cores, where ours has one, and busy-wait for each
other.

"Operations" are the floating-point operations per second of vision tower and decoder for all
distinct tokens (all layers, without the attention of the decoder). They are compared with the rate
of large matrix products on the same machine, with the same data type and number of threads.
"""
_GPU_CHECK: Final = Path(__file__).parent / "gpu_check" / "notes.md"
_COMMANDS: Final = """\
## Commands

```sh
make vllm                                    # installs vLLM in build/vllm, to measure it as well
make bench                                   # all benchmarks, with the demo model
python -m benchmarks scoring --save          # one of scoring, preferences, summaries, training
python -m benchmarks scoring --shapes middle --users 4 --items 21 --released-pairs 6 \\
    --strong-pairs 32 --batch-size 16 --repeats 3 --growth 4 --save
python -m benchmarks scoring --shapes smolvlm2-256m --dtype bfloat16 --users 8 --items 24 \\
    --repeats 3 --strong-pairs 12 --released-pairs 2 --growth 0 --save
python -m benchmarks candidate_lists --shapes smolvlm2-256m --dtype bfloat16 --repeats 1 \\
    --whole-candidates 6 --vllm 0 --save
python -m benchmarks training --shapes smolvlm2-256m --dtype bfloat16 --samples 48 --items 8 \\
    --released-samples 1 --strong-samples 8 --repeats 3 --growth 0 --save
python -m benchmarks summaries --shapes smolvlm2-256m --dtype bfloat16 --items 6 --new-tokens 24 \\
    --released-items 1 --strong-items 6 --repeats 3 --growth 0 --save
python -m benchmarks preferences --shapes smollm --dtype bfloat16 --users 32 --items 24 \\
    --released-users 2 --strong-users 32 --repeats 3 --growth 0 --save
# On a GPU, with the shapes of LLaVA-v1.6-mistral-7b and random weights:
python -m benchmarks scoring --device cuda --shapes 7b --batch-size 32 --save
python -m benchmarks training --device cuda --shapes 7b --batch-size 4 --samples 64 --save
python -m benchmarks summaries --device cuda --shapes 7b --new-tokens 64 --save
python -m benchmarks preferences --device cuda --shapes 7b --new-tokens 64 --save
```

No GPU has been measured so far.
"""


def page(results: Path) -> str:
    """Return the text of docs/speed.md.

    Args:
        results: Folder of the results as JSON files. Its parent folder contains the notes.
    """
    parts = [_INTRODUCTION]
    for name in _TITLES:
        files = sorted(results.glob(f"{name}*.json"))
        parts += [_section(name, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    parts.append(families_section())
    parts.append((results.parent / "speed_notes.md").read_text(encoding="utf-8"))
    return "\n".join([*parts, _COMMANDS, _GPU_CHECK.read_text(encoding="utf-8")])


def _section(name: str, result: Mapping[str, Any]) -> str:
    """Return the section of one result."""
    title, units = _TITLES[name]
    rates, token_rates = result["per_second"], result["tokens_per_second"]
    targets = _TARGETS.get((name, result["device"], result["shapes"]), {})
    lines = [
        f"## {title}: {result['shapes']}, {result['dtype']}, {result['device']}",
        "",
        f"| | {units} per second | tokens per second | our speedup | target |",
        "|---|---|---|---|---|",
    ]
    for other, ratio in result["ratios"].items():
        target = targets.get(other)
        cell = f"{target:g}x" if target else ""
        lines.append(
            f"| {other} | {rates[other]:g} | {token_rates[other]:g} | {ratio:g}x | {cell} |"
        )
    achieved = f"{result['unique_gflops']} of {result['matmul_gflops']} GFLOP/s"
    lines += [
        f"| ours | {rates['ours']:g} | {token_rates['ours']:g} | | |",
        "",
        f"Operations: {achieved}, {result['share_of_matmul']:.0%}.",
        _agreement(name, result),
        f"Load average before and after: {result['load_before']}, {result['load_after']}.",
    ]
    if computed := result.get("computed_tokens"):
        cells = (f"{count:,} for {other}" for other, count in computed.items())
        lines.append(f"Tokens computed for {result['candidates']} candidates: {', '.join(cells)}.")
    if seconds := result.get("vllm_seconds"):
        cells = (f"{median(values):.3g} {kind}" for kind, values in seconds.items())
        lines.append(f"Seconds of vLLM per repeat: {', '.join(cells)}.")
    if growth := result.get("growth"):
        first, last = growth["peak_gb"]
        lines.append(
            f"{growth['work_times']:g} times the work took {growth['time_times']} times as long; "
            f"peak memory was {first} GB and {last} GB."
        )
    return "\n".join([*lines, ""])


def _agreement(name: str, result: Mapping[str, Any]) -> str:
    """Return a sentence on the agreement of the other implementations with ours."""
    if name in _DIFFERENCES:
        baseline = "whole prompts" if name == "candidate_lists" else "strong"
        keys = {baseline: "largest_difference", "vllm": "largest_difference_to_vllm"}
        cells = [f"{result[key]:.1g} for {other}" for other, key in keys.items() if key in result]
        return f"Largest difference of {_DIFFERENCES[name]} from ours: {', '.join(cells)}."
    keys = {"strong": "share_of_equal_answers", "vllm": "share_of_answers_equal_to_vllm"}
    cells = [f"{result[key]:.1%} for {other}" for other, key in keys.items() if key in result]
    return f"Share of answers equal to ours: {', '.join(cells)}."

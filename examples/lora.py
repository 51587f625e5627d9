r"""Fine-tune a Hugging Face checkpoint with LoRA on your files, and look at the adapter.

    python examples/write_shop.py shop          # or your own files, see docs/own-data.md
    python examples/lora.py --data shop --run runs/lora \
        --checkpoint HuggingFaceTB/SmolVLM2-256M-Video-Instruct

Only the stages `prepare` and `train` are run. The ranker reads titles and images, so the stages
before it are not needed. The adapter has PEFT's format: other tools can load it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors import safe_open

from mllm_msr import Pipeline


def main() -> None:
    """Fine-tune, and print what the adapter contains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shop")
    parser.add_argument("--run", default="runs/lora")
    parser.add_argument("--checkpoint", default="HuggingFaceTB/SmolVLM2-256M-Video-Instruct")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    settings = {
        "dataset": "files",
        "data.path": arguments.data,
        "data.run_folds": [0],
        "model.backend": "huggingface",
        "model.checkpoint": arguments.checkpoint,
        "recommend.reads": "history",
        "summarize.enabled": False,
        "infer.enabled": False,
        "train.rank": arguments.rank,
        "train.batch_size": arguments.batch,
        "train.max_steps": arguments.steps,
        "train.validate_every": max(1, arguments.steps // 2),
    }
    with Pipeline.open(arguments.run, settings) as pipeline:
        for stage in ("prepare", "train"):
            pipeline.run_stage(stage)
        print(json.dumps(pipeline.counts("train"), indent=2))
    adapter = Path(arguments.run) / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        print(f"{adapter}: rank {config['r']}, {len(weights.keys())} matrices")


if __name__ == "__main__":
    main()

"""The speed benchmarks at a small size: all implementations run and agree."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from benchmarks import _qwen3_vl
from benchmarks.__main__ import RESULTS
from benchmarks._checkpoints import _tokenizer, make_checkpoint
from benchmarks._page import page
from benchmarks._setup import unique_tokens
from benchmarks._smolvlm import SIZES as SIZES_OF_SMOLVLM
from mllm_msr.errors import UnknownNameError
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import can_share_prefixes
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

SMALL = {"shapes": "tiny", "repeats": 1, "growth": 0}
SIZES: dict[str, dict[str, Any]] = {
    "scoring": {"users": 2, "items": 21, "released_pairs": 6, "strong_pairs": 10, "vllm": 0},
    "preferences": {
        "users": 2, "items": 12, "released_users": 1, "strong_users": 2, "new_tokens": 3, "vllm": 0,
    },
    "summaries": {
        "items": 3, "released_items": 2, "strong_items": 3, "new_tokens": 3, "vllm": 0,
    },
    "training": {
        "samples": 16, "items": 8, "released_samples": 2, "strong_samples": 8, "batch_size": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_all_implementations_run_and_agree(name: str) -> None:
    result = importlib.import_module(f"benchmarks.{name}").run(**SMALL, **SIZES[name])
    assert result["ratios"].keys() == {"released", "strong"}
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert 0 < result["share_of_matmul"] < 1
    assert all(rate > 0 for rate in result["tokens_per_second"].values())
    if "largest_difference" in result:
        assert result["largest_difference"] < 1e-3
    else:
        assert result["share_of_equal_answers"] > 0.9


def test_a_list_of_candidates_reads_the_user_once() -> None:
    result = importlib.import_module("benchmarks.candidate_lists").run(
        shapes="tiny", candidates=12, items=12, repeats=1, vllm=0
    )
    computed = result["computed_tokens"]
    assert computed["ours"] < 0.8 * computed["whole prompts"]
    assert result["largest_difference"] < 1e-3
    cached = {"item-first, cached", "user-first, cached"}
    assert result["ratios"].keys() == {"whole prompts", "item-first", *cached}


def test_tokens_of_a_shared_prefix_are_counted_once() -> None:
    def rendered(ids: list[int], *images: str) -> Rendered:
        return Rendered(tuple(ids), tuple(map(Path, images)), len(ids), trimmed=False)

    prompts = [rendered([9, 1, 2], "a"), rendered([9, 1, 3], "a"), rendered([9, 1, 2], "b")]
    assert unique_tokens(prompts) == (3 + 1 + 3, 2)
    assert unique_tokens([rendered([1, 2]), rendered([1, 2])]) == (2, 0)


def test_the_gpu_commands_on_the_page_have_valid_options() -> None:
    commands = re.findall(r"python -m benchmarks (\w+) (--device cuda .*) --save", page(RESULTS))
    assert {name for name, _ in commands} == SIZES.keys()
    for name, options in commands:
        known = inspect.signature(importlib.import_module(f"benchmarks.{name}").run).parameters
        flags = re.findall(r"--([a-z-]+)", options)
        assert {flag.replace("-", "_") for flag in flags} <= known.keys(), name


def test_unknown_shapes_are_an_error() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"Unknown shapes 'huge'\. Available: demo, smollm, tiny, .*, qwen3-vl-2b",
    ):
        make_checkpoint("huge", Path(), device="cpu", dtype="float32", texts=())


def test_shapes_by_model_name_have_the_sizes_of_the_model(
    tmp_path: Path, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few layers, since the size of a layer does not depend on their number.
    hidden, inner, _, heads, key_heads = SIZES_OF_SMOLVLM["smolvlm2-256m"]
    monkeypatch.setitem(SIZES_OF_SMOLVLM, "smolvlm2-256m", (hidden, inner, 2, heads, key_heads))
    texts = ["A calm film. USER yes no"]
    folder = make_checkpoint(
        "smolvlm2-256m", tmp_path / "model", device="cpu", dtype="bfloat16", texts=texts
    )
    loaded = load_model(folder, device="cpu")
    assert can_share_prefixes(loaded.model.config)
    sizes = [weight.numel() for weight in loaded.model.get_decoder().layers[0].parameters()]
    # HuggingFaceTB/SmolVLM2-256M-Video-Instruct: 106 of 135 million weights in 30 layers.
    assert round(30 * sum(sizes) / 1e6) == 106
    renderer = Renderer(loaded.processor, supports_images=True)
    parts = (ImagePart(images[0]), TextPart("Would the user watch it?"))
    rendered = renderer.render(Prompt((Message("user", parts),), max_new_tokens=1))
    assert rendered.input_ids.count(loaded.model.config.image_token_id) == 64
    ((_, scores),) = Engine(loaded).score(
        [Prompt((Message("user", parts),), max_new_tokens=1)], ("yes", "no")
    )
    assert scores.error is None


def test_qwen3_vl_2b_has_the_sizes_of_the_model() -> None:
    hidden, inner, layers, heads, key_heads, head_size = _qwen3_vl.SIZES["qwen3-vl-2b"].text
    tokenizer = _tokenizer(["yes no"], 2000, _qwen3_vl.MARKS, image=_qwen3_vl.IMAGE)
    with torch.device("meta"):
        model = transformers.Qwen3VLForConditionalGeneration(
            _qwen3_vl.make_config("qwen3-vl-2b", tokenizer)
        )
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    attention = (2 * heads + 2 * key_heads) * head_size * hidden + 2 * head_size
    layer = attention + 3 * hidden * inner + 2 * hidden
    decoder = sum(n for name, n in sizes.items() if name.startswith("model.language_model."))
    # The output layer is the token embedding.
    assert decoder == sum(sizes.values()) - sum(n for k, n in sizes.items() if "visual" in k)
    assert decoder == layers * layer + hidden + 151_936 * hidden
    # Qwen/Qwen3-VL-2B-Instruct: 2.13 billion weights, 0.41 billion of them in the vision tower.
    assert round(sum(sizes.values()) / 1e9, 2) == 2.13
    assert round((sum(sizes.values()) - decoder) / 1e9, 2) == 0.41


def test_qwen3_vl_limits_the_tokens_of_images_and_shares_prefixes(
    tmp_path: Path, images: Any
) -> None:
    folder = make_checkpoint(
        "qwen3-vl-tiny", tmp_path / "model", device="cpu", dtype="float32", texts=["yes no"]
    )
    loaded = load_model(folder, device="cpu")
    assert can_share_prefixes(loaded.model.config)
    renderer = Renderer(loaded.processor, supports_images=True)
    large = tmp_path / "large.png"
    Image.linear_gradient("L").convert("RGB").resize((600, 300)).save(large)
    counts = []
    for path in (large, images[0]):
        prompt = Prompt((Message("user", (ImagePart(path), TextPart("?"))),), max_new_tokens=1)
        ids = renderer.render(prompt).input_ids
        counts.append(ids.count(loaded.model.config.image_token_id))
    assert counts == [10, 2]

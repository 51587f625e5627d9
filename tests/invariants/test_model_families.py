"""Every model family gives the results of plain calls of its processor and model.

The results are the table of docs/models.md: `UPDATE_GOLDEN=1` writes them to
tests/golden/model_families.json, and `make docs` writes the page.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import transformers

import family_checks
import tiny_checkpoints
from mllm_msr.errors import BackendError
from mllm_msr.models.families import TESTED_TYPES
from mllm_msr.models.last_token import can_select_positions
from mllm_msr.models.loading import load_model
from mllm_msr.models.prefix_support import prefix_support, why_not_continuous, why_not_in_training
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.types import Item

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "model_families.json"
REJECTED: Final = ("paligemma",)
# Their processors prepare images with torchvision.
NEEDS_TORCHVISION: Final = ("lfm2_vl", "llama4", "mistral3", "pixtral")
HAS_TORCHVISION: Final = importlib.util.find_spec("torchvision") is not None
AVAILABLE: Final = [
    family
    for family in tiny_checkpoints.ALL_FAMILIES
    if family not in REJECTED and (HAS_TORCHVISION or family not in NEEDS_TORCHVISION)
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], family_checks.Family]:
    """Return a function that loads a family; the previous one is freed."""
    return functools.lru_cache(maxsize=1)(
        lambda name: family_checks.Family(tiny_checkpoint(name), tiny_checkpoints.has_vision(name))
    )


def record(family: str, **found: Any) -> None:
    """Compare results with those in the documentation, or replace them."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        rows[family] = rows.get(family, {}) | found
        ordered = dict(sorted(rows.items()))
        GOLDEN.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    else:
        assert {name: rows[family][name] for name in found} == found


def make_examples(images: Sequence[Path], *, vision: bool) -> list[Example]:
    """Return six examples, the last one without an image."""
    made = []
    for number in range(6):
        words = ("golden lantern", "calm films")[number % 2] + " on stripes" * (number % 3)
        image = images[number % len(images)] if vision and number < 5 else None
        prompt = build_prompt(
            f"The user appears to have a preference for {words}.",
            Item(f"i{number}", f"title {number}", image=image),
            item_type="video",
        )
        made.append(Example(0, "train", "uniform", "u", 5, f"i{number}", number % 2, prompt))
    return made


class TestInference:
    @pytest.mark.parametrize("name", AVAILABLE)
    def test_scores_and_texts_equal_plain_calls(
        self, name: str, checkpoint: Any, images: Sequence[Path], tmp_path: Path
    ) -> None:
        family = checkpoint(name)
        shown = [*images, _enlarged(images[0], tmp_path)]
        prompts = family_checks.make_prompts(shown, vision=family.vision)
        assert len(prompts) == 24
        family_checks.check_scores(family, prompts)
        family_checks.check_texts(family, [*prompts[:20:5], prompts[20], prompts[-1]])
        family_checks.check_budget(family, images)
        if family.vision:
            family_checks.check_extreme_images(family, tmp_path)
        assert family.n_errors == 0
        record(
            name,
            model=type(family.model).__name__,
            type=family.model.config.model_type,
            images=family.vision,
            needs="torchvision" if name in NEEDS_TORCHVISION else "",
            system_turn=family_checks.check_system_turn(family, images),
        )


class TestTraining:
    @pytest.mark.parametrize("name", AVAILABLE)
    def test_a_step_equals_plain_calls_and_its_weights_are_saved(
        self, name: str, checkpoint: Any, images: Sequence[Path], tmp_path: Path
    ) -> None:
        family = checkpoint(name)
        examples = make_examples(images, vision=family.vision)
        found = family_checks.check_training(family, examples, tmp_path)
        layers = sorted({layer.rpartition(".")[2] for layer in found.layers})
        record(name, caches_features=found.caches_features, layers=layers)


class TestOptimizations:
    # They depend on configurations and classes, so torchvision is not needed.
    @pytest.mark.parametrize(
        "name", [n for n in tiny_checkpoints.ALL_FAMILIES if n not in REJECTED]
    )
    def test_the_table_says_which_work_prompts_share(
        self, name: str, tiny_checkpoint: Callable[[str], Path]
    ) -> None:
        config = transformers.AutoConfig.from_pretrained(tiny_checkpoint(name))
        architecture = getattr(transformers, config.architectures[0])
        with torch.device("meta"):
            model = architecture(config)
        support = prefix_support(config)
        record(
            name,
            optimizations={
                "scoring": not support.reason,
                "user_first": not support.reason and support.images_are_causal,
                "writing": not why_not_continuous(model),
                "training": not why_not_in_training(model),
                "sliding_window": support.window > 0,
                "last_layer": can_select_positions(model),
            },
        )


def _enlarged(path: Path, folder: Path) -> Path:
    """Return an image that has several tiles in models that cut images into tiles."""
    from PIL import Image

    with Image.open(path) as image:
        image.resize((100, 90)).save(folder / "large.png")
    return folder / "large.png"


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
@pytest.mark.parametrize("name", NEEDS_TORCHVISION)
def test_families_that_need_torchvision_are_rejected_without_it(
    name: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(BackendError, match=r"needs torchvision, .* Run: pip install"):
        load_model(str(tiny_checkpoint(name)))
    record(name, needs="torchvision")


@pytest.mark.parametrize("name", REJECTED)
def test_families_that_cannot_work_are_rejected_by_name(
    name: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(
        BackendError, match=f"type '{name}' are not supported. It .* Use a"
    ) as error:
        load_model(str(tiny_checkpoint(name)))
    record(name, rejected=str(error.value).split(". ")[1] + ".")


def test_every_tested_type_is_in_the_table() -> None:
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(rows) == set(tiny_checkpoints.ALL_FAMILIES)
    assert {row["type"] for row in rows.values() if "type" in row} == TESTED_TYPES


def test_the_page_shows_the_results() -> None:
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))
    page = (GOLDEN.parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    shown = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for family, row in rows.items():
        assert row.get("rejected", row.get("model")) in shown[family]
        assert ("with torchvision" in shown[family]) == (row.get("needs") == "torchvision")

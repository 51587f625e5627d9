"""Examples of a tiny world, in which preference and candidate determine the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.types import Item

MakeExamples = Callable[..., list[Example]]


@pytest.fixture(scope="session")
def make_examples(images: Sequence[Path]) -> MakeExamples:
    """Balanced examples: golden preferences go with even items, calm ones with odd items."""

    def make(n: int, *, split: str = "train", shown: bool = False, seed: int = 0) -> list[Example]:
        noise = np.random.default_rng(seed)
        made = []
        for number in range(n):
            item, golden = int(noise.integers(4)), bool(noise.integers(2))
            label = int((item % 2 == 0) == golden)
            words = "golden lantern" if golden else "calm films"
            padding = " on stripes" * int(noise.integers(4))
            prompt = build_prompt(
                f"The user appears to have a preference for {words}{padding}.",
                Item(f"i{item}", f"title {item}", image=images[item] if shown else None),
                item_type="video",
            )
            user = f"u{number // 8}"
            made.append(Example(0, split, "uniform", user, 5, f"i{item}", label, prompt))
        return made

    return make


@pytest.fixture(scope="session")
def make_lists(images: Sequence[Path]) -> MakeExamples:
    """Lists of candidates with user-first prompts: the prompts of a user begin in the same way."""

    def make(n_users: int, n_items: int, *, shown: bool = True) -> list[Example]:
        made = []
        for user in range(n_users):
            golden = user % 2 == 0
            words = "golden lantern" if golden else "calm films"
            for number in range(n_items):
                item = (user + number) % len(images)
                prompt = build_prompt(
                    f"The user appears to have a preference for {words}{' on stripes' * user}.",
                    Item(f"i{item}", f"title {item}", image=images[item] if shown else None),
                    item_type="video",
                    order="user-first",
                )
                label = int((item % 2 == 0) == golden)
                made.append(
                    Example(0, "train", "uniform", f"u{user}", 5, f"i{item}", label, prompt)
                )
        return made

    return make


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Use one thread, because models this small are slower with several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

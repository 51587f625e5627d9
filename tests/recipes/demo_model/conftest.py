"""Fixtures of the recipe's tests: tiny training runs with a shared tokenizer and cover pool."""

from functools import partial

import pytest

from recipes.demo_model.pretrain import Run

TINY = {"width": 32, "layers": 1, "heads": 2, "inner": 48, "vision_width": 32, "vision_layers": 1,
        "image_size": 32}  # fmt: skip


@pytest.fixture(scope="session")
def pool_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, pool_folder):
    """Return the folder of a tokenizer that a tiny run trained."""
    folder = tmp_path_factory.mktemp("tokenizer")
    _run(folder, pool_folder=pool_folder)
    return folder / "tokenizer"


@pytest.fixture
def tiny_run(pool_folder, tokenizer_folder):
    """Return a function that makes a tiny run in a folder."""

    def make(folder):
        folder.mkdir(exist_ok=True)
        if not (folder / "tokenizer").exists():
            (folder / "tokenizer").symlink_to(tokenizer_folder)
        return _run(folder, pool_folder=pool_folder)

    return make


_run = partial(
    Run, n_steps=20, n_tokens=400, n_covers=40, n_held_out=30, n_tokenizer=100, shape=TINY
)

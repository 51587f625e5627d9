"""Public names of the package: they resolve, load lazily, and are visible to type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import mllm_msr
from mllm_msr.backends.mock import MockBackend
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.splits import split_users
from mllm_msr.errors import UsageError
from mllm_msr.ranker.examples import build_examples
from mllm_msr.tables import ITEMS


@pytest.mark.parametrize("name", mllm_msr.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(mllm_msr, name) is not None
    assert name in dir(mllm_msr)


def test_other_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        mllm_msr.Pipelin  # noqa: B018 - the access is the test


def test_the_imports_for_type_checkers_are_the_lazy_imports() -> None:
    tree = ast.parse(Path(mllm_msr.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {
        alias.name: statement.module.removeprefix("mllm_msr").removeprefix(".") or None
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    assert imported == mllm_msr._MODULES


def test_every_lazy_import_is_exported() -> None:
    assert set(mllm_msr.__all__) == {"__version__", *mllm_msr._MODULES}


def test_importing_the_package_loads_no_public_module() -> None:
    code = (
        "import sys, mllm_msr;"
        "sys.exit(str(sorted(name for name in sys.modules if name.startswith('mllm_msr.'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "mllm_msr", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("convert", [pl.DataFrame.lazy, pl.DataFrame.to_pandas])
def test_steps_of_the_method_accept_lazy_frames_and_pandas(convert) -> None:
    raw = pl.DataFrame(
        [(f"u{user}", f"i{(user + at) % 9}", at) for user in range(8) for at in range(4)],
        schema=["user_id", "item_id", "timestamp"],
        orient="row",
    )
    interactions, _ = prepare_interactions(
        convert(raw), min_user_interactions=1, min_item_interactions=1
    )
    splits = split_users(interactions, folds=2)
    assert split_users(convert(interactions), folds=2).equals(splits)
    candidates = draw_candidates(interactions, splits, n_negatives=2, folds=[0])
    other = draw_candidates(
        convert(interactions),
        convert(splits),
        n_negatives=2,
        folds=[0, 0],
        negatives=["uniform", "popularity", "uniform"],
    )
    assert other.equals(candidates)
    items = pl.DataFrame(
        [(f"i{at}", f"Thing {at}", "A text.", None) for at in range(9)],
        schema=dict(ITEMS),
        orient="row",
    )
    summaries = mllm_msr.summarize(convert(items), MockBackend(["A thing."]))
    preferences = mllm_msr.infer_preferences(
        convert(interactions), convert(summaries), MockBackend(["The user likes things."])
    )
    assert preferences["user_id"].n_unique() == 8
    examples = build_examples(
        convert(candidates), convert(preferences), convert(items), item_type="book"
    )
    assert len(list(examples)) == candidates.height
    scores = candidates.filter(pl.col("split") == "test").with_columns(score=pl.lit(0.5))
    found = mllm_msr.evaluate_scores({"constant": convert(scores)}, n_resamples=20)
    assert found.summary["constant"]["uniform"]["auc"]["mean"] == 0.5
    with pytest.raises(UsageError, match="Pass a mapping"):
        mllm_msr.evaluate_scores(scores)

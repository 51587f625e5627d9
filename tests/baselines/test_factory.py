"""Constructing baselines: their arguments, and folders for those that store something."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mllm_msr.baselines import _factory
from mllm_msr.baselines._factory import Folders
from mllm_msr.errors import SettingsError, UnknownNameError


def made(name: str, arguments: dict[str, Any], folders: Folders | None) -> Any:
    return cast("Any", _factory.make(name, arguments, folders=folders))


def test_folders_reach_the_baselines_that_store_something(tmp_path: Path) -> None:
    folders = Folders(content=tmp_path / "content", states=tmp_path / "states")
    model = made("sasrec_f", {"epochs": 3}, folders)
    assert (model.epochs, model.content_cache) == (3, tmp_path / "content")
    assert model.checkpoints.parent == tmp_path / "states"
    assert made("sasrec_f", {}, Folders(tmp_path)).checkpoints is None
    assert made("sasrec_f", {}, None).content_cache is None
    _factory.make("popularity", {}, folders=folders)  # takes no folder


def test_arguments_take_precedence_over_folders(tmp_path: Path) -> None:
    folders = Folders(tmp_path, tmp_path / "states")
    model = made("sasrec", {"checkpoints": tmp_path / "own"}, folders)
    assert model.checkpoints == tmp_path / "own"


def test_only_equal_models_share_a_folder_of_states(tmp_path: Path) -> None:
    folders = Folders(tmp_path, tmp_path / "states")
    plain = made("sasrec", {}, folders).checkpoints
    assert made("sasrec", {"seed": 0}, folders).checkpoints == plain  # the default
    assert made("sasrec", {"seed": 1}, folders).checkpoints != plain
    assert made("gru4rec", {}, folders).checkpoints != plain


def test_unknown_names_and_invalid_arguments_are_rejected() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown baseline 'sasrek'. Did you mean 'sasrec'"):
        _factory.make("sasrek", {})
    with pytest.raises(
        SettingsError, match=r"^baselines\.sasrec\.epochs must be at least 1, but is 0"
    ):
        _factory.make("sasrec", {"epochs": 0})


def test_members_are_given_or_the_default() -> None:
    assert _factory.member_names("item_knn", {}) == ()
    assert "sasrec" in _factory.member_names("hybrid", {})
    assert _factory.member_names("hybrid", {"members": ["a", "b"]}) == ("a", "b")


def test_an_ensemble_is_no_member_of_itself() -> None:
    with pytest.raises(
        SettingsError, match=r"baselines\.hybrid\.members must not contain 'hybrid'"
    ):
        _factory.member_names("hybrid", {"members": ["sasrec", "hybrid"]})

"""How baselines are made: with their arguments, and folders for those that keep something."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mllm_msr.baselines import _factory
from mllm_msr.baselines._factory import Places
from mllm_msr.errors import SettingsError, UnknownNameError


def made(name: str, arguments: dict[str, Any], places: Places | None) -> Any:
    return cast("Any", _factory.make(name, arguments, places=places))


def test_folders_reach_those_that_keep_something(tmp_path: Path) -> None:
    places = Places(content=tmp_path / "content", states=tmp_path / "states")
    model = made("sasrec_f", {"epochs": 3}, places)
    assert (model.epochs, model.content_cache) == (3, tmp_path / "content")
    assert model.checkpoints.parent == tmp_path / "states"
    assert made("sasrec_f", {}, Places(tmp_path)).checkpoints is None
    assert made("sasrec_f", {}, None).content_cache is None
    _factory.make("popularity", {}, places=places)  # keeps nothing, and is told of nothing


def test_arguments_win_over_places(tmp_path: Path) -> None:
    model = made("sasrec", {"checkpoints": tmp_path / "own"}, Places(tmp_path, tmp_path / "states"))
    assert model.checkpoints == tmp_path / "own"


def test_equal_models_share_a_folder_of_states_and_others_do_not(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "states")
    plain = made("sasrec", {}, places).checkpoints
    assert made("sasrec", {"seed": 0}, places).checkpoints == plain  # its default, spelt out
    assert made("sasrec", {"seed": 1}, places).checkpoints != plain
    assert made("gru4rec", {}, places).checkpoints != plain


def test_unknown_names_and_bad_arguments_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="sasrek"):
        _factory.make("sasrek", {})
    with pytest.raises(SettingsError, match="epochs must be at least 1, it is 0"):
        _factory.make("sasrec", {"epochs": 0})

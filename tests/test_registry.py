"""Registry: names come from files, listing imports nothing, unknown names get a hint."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mllm_msr import registry
from mllm_msr.errors import UnknownNameError
from mllm_msr.interfaces import Recommender


def test_a_name_is_a_file_and_the_class_in_it() -> None:
    assert "popularity" in registry.names("baselines")
    found = registry.find("baselines", "popularity")
    assert issubclass(found, Recommender)
    assert found.__module__ == "mllm_msr.baselines.popularity"


def test_underscore_files_are_not_listed() -> None:
    for kind in ("datasets", "backends", "baselines"):
        assert not [name for name in registry.names(kind) if name.startswith("_")]


def test_an_unknown_name_gets_the_closest_one() -> None:
    with pytest.raises(UnknownNameError, match="received 'popularty': did you mean 'popularity'"):
        registry.find("baselines", "popularty")


def test_a_far_name_gets_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"choose one of .*popularity"):
        registry.find("baselines", "zzz")


def test_listing_and_importing_the_package_load_no_model_library() -> None:
    code = (
        "import sys, mllm_msr; from mllm_msr import registry;"
        "[registry.names(k) for k in ('datasets', 'backends', 'baselines')];"
        "heavy = {'torch', 'transformers', 'lightning', 'peft'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

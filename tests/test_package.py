"""The package's public names: all resolve, none is loaded before it is asked for."""

from __future__ import annotations

import pytest

import mllm_msr


@pytest.mark.parametrize("name", mllm_msr.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(mllm_msr, name) is not None
    assert name in dir(mllm_msr)


def test_other_names_do_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        mllm_msr.Pipelin  # noqa: B018 - asking is the test

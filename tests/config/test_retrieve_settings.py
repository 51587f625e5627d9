"""Section `retrieve` of the settings."""

from __future__ import annotations

import pytest

from mllm_msr.config.retrieve_settings import RetrieveSettings
from mllm_msr.config.settings import Settings


def test_it_is_a_section_of_the_settings() -> None:
    assert Settings().retrieve == RetrieveSettings()


@pytest.mark.parametrize("share", [0, 1.5])
def test_shares_are_in_range(share: float) -> None:
    with pytest.raises(ValueError, match="recent_share"):
        RetrieveSettings(recent_share=share)

"""Section `retrieve` of the settings."""

from __future__ import annotations

import pytest

from mllm_msr.config.retrieve_settings import (
    GENERATORS,
    RetrieveSettings,
    generator_baselines,
    generator_names,
)
from mllm_msr.config.settings import Settings


def test_it_is_a_section_of_the_settings() -> None:
    assert Settings().retrieve == RetrieveSettings()


@pytest.mark.parametrize("share", [0, 1.5])
def test_shares_are_in_range(share: float) -> None:
    with pytest.raises(ValueError, match="recent_share"):
        RetrieveSettings(recent_share=share)


def test_generators_that_are_baselines_are_found() -> None:
    defaults = generator_baselines(RetrieveSettings(), has_student=False)
    assert defaults == {"collaborative": "item_knn"}
    retrieve = RetrieveSettings(
        generators=("recent", "collaborative", "sasrec"), collaborative="gru4rec"
    )
    found = generator_baselines(retrieve, has_student=True)
    assert found == {"collaborative": "gru4rec", "sasrec": "sasrec"}


def test_the_student_of_a_distilled_run_is_a_generator_unless_others_are_named() -> None:
    retrieve = RetrieveSettings()
    assert generator_names(retrieve, has_student=False) == GENERATORS
    assert generator_names(retrieve, has_student=True) == ("student", *GENERATORS)
    assert generator_baselines(retrieve, has_student=True)["student"] == "student"
    named = RetrieveSettings(generators=("recent",))
    assert generator_names(named, has_student=True) == ("recent",)

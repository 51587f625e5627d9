"""Cost report: totals of unfinished stages."""

from __future__ import annotations

from mllm_msr.pipeline.cost.report import CostReport, ListCalls, StageCost

STAGES = (
    StageCost("summarize", "openai", prompt_tokens=5, price=1.0, seconds=1.0, done=True),
    StageCost("train/0", "openai", prompt_tokens=100, seconds=7200.0),
    StageCost("score/x", "openai", prompt_tokens=30, output_tokens=3, price=2.0, seconds=3600.0),
)


def test_totals_exclude_finished_stages_and_tokens_of_training() -> None:
    report = CostReport(STAGES, "words", "a pilot")
    assert (report.tokens, report.price, report.hours) == (33, 2.0, 3.0)


def test_hours_are_unknown_if_the_rate_of_an_unfinished_stage_is() -> None:
    assert CostReport((StageCost("a", "b"),), "", "").hours is None
    assert CostReport((StageCost("a", "b", done=True),), "", "").hours == 0.0


def test_tokens_are_reported_per_prompt_and_per_image() -> None:
    stage = StageCost("a", "b", calls=4, prompt_tokens=402, images=3, image_tokens=290)
    assert (stage.tokens_per_prompt, stage.tokens_per_image) == (100, 97)
    values = CostReport((stage,), "", "").to_dict()["stages"][0]
    assert (values["tokens_per_prompt"], values["tokens_per_image"]) == (100, 97)
    assert StageCost("a", "b").tokens_per_image == 0


def test_json_contains_stages_and_totals() -> None:
    values = CostReport(STAGES, "words", "a pilot").to_dict()
    assert values["remaining"] == {"tokens": 33, "price": 2.0, "hours": 3.0}
    assert values["stages"][2]["cached_calls"] == 0
    assert (values["counted_by"], values["lengths_by"]) == ("words", "a pilot")
    assert values["lists"] is None
    values = CostReport(STAGES, "words", "a pilot", lists=ListCalls(5, "Because.")).to_dict()
    assert values["lists"] == {"calls": 5, "reason": "Because."}

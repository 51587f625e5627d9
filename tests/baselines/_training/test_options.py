"""Options of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from mllm_msr.baselines._training.options import LoopOptions, changed_fields


def test_all_options_out_of_range_are_reported_at_once():
    wrong = LoopOptions(
        epochs=0, learning_rate=0.0, beta2=1.0, weight_decay=-1.0, max_minutes=0.0, precision="int8"
    )
    problems = wrong.problems()
    assert problems[0] == "epochs must be at least 1, but is 0."
    for name in ("epochs", "learning_rate", "beta2", "weight_decay", "max_minutes", "precision"):
        assert f"{name} must" in " ".join(problems)
    assert LoopOptions().problems() == []


def test_changed_fields_leave_out_defaults_and_internal_fields():
    @dataclass
    class Settings:
        width: int = 4
        depth: int = 2
        state: int = field(default=0, init=False)

    settings = Settings(depth=3)
    settings.state = 7
    assert changed_fields(settings) == {"depth": 3}
    assert changed_fields(LoopOptions()) == {}

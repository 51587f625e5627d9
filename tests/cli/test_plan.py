"""`plan`: prints the cost estimate as a table or as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import list_worlds
from mllm_msr.errors import BackendError
from mllm_msr.recommend.recommender import MllmMsr

STAGES = ["summarize", "infer", "score/zero_shot"]


def test_the_table_has_one_line_per_stage(invoke, settings: list[str], tmp_path: Path) -> None:
    done = invoke("plan", *settings, "plan.sample=5", "--run", tmp_path / "run")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    costs, tokens, orders, summary = "\n".join(lines).split("\n\n")
    assert costs.split("\n")[0].split() == [
        "stage", "state", "calls", "cached", "hours", "price", "disk"
    ]  # fmt: skip
    assert tokens.split()[:5] == ["tokens", "input", "images", "shared", "output"]
    for table in (costs, tokens):
        assert [line.split()[0] for line in table.split("\n")[1:]] == STAGES
    mean, _, longest = tokens.split("\n")[1].split()[5:8]
    assert 0 < int(mean) <= int(longest.strip(")"))
    header, *rows = orders.split("\n")
    at = next(at for at, row in enumerate(rows) if row.startswith("Lists are ordered"))
    rows, sentences = rows[:at], "".join(rows[at:])
    # The path of the run may be longer than a line.
    assert sentences.replace(" ", "") == (
        "Lists are ordered by rank fusion with fixed weights. The model scores 20 candidates per "
        "list, one call each. Order and number of calls are the defaults, because the run has no "
        f"fitted weights: 'mllm-msr fit-lists --run {tmp_path / 'run'}' fits both to its users, "
        "and retrieve.budget sets the number."
    ).replace(" ", "")
    assert header.split()[-3:] == ["item-first", "user-first", "cheaper"]
    assert [row.split("  ")[0] for row in rows] == ["test candidates", "a list of 20 items"]
    words = " ".join(summary.split())
    assert "unknown time without a rate" in words
    assert "output lengths come from the limits in the settings (upper bound)." in words


def test_json_contains_the_stages_and_the_remaining_cost(
    invoke, settings: list[str], tmp_path: Path
) -> None:
    rates = ["plan.sample=5", "plan.prompt_rate=10", "plan.output_rate=10"]
    done = invoke("plan", *settings, *rates, "--run", tmp_path / "run", "--json")
    report = json.loads(done.stdout)
    assert [stage["stage"] for stage in report["stages"]] == STAGES
    assert {order["cheaper"] for order in report["orders"]} <= {"item-first", "user-first"}
    remaining = report["remaining"]
    assert remaining["hours"] == pytest.approx(remaining["tokens"] / 36000, rel=1e-3)


def test_a_plan_of_a_prepared_run_does_not_change_its_settings(
    invoke, settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert invoke("plan", *settings, "plan.sample=5", "--run", run).exit_code == 0
    saved = (run / "config.yaml").read_text(encoding="utf-8")
    done = invoke("plan", "plan.sample=6", "infer.words=7", "--run", run)
    assert done.exit_code == 0, done.output
    assert (run / "config.yaml").read_text(encoding="utf-8") == saved


def test_a_pilot_with_an_endpoint_that_is_down_fails_at_once(
    invoke, settings: list[str], tmp_path: Path
) -> None:
    down = ["model.backend=openai", "model.checkpoint=m", "model.url=http://127.0.0.1:9/v1"]
    start = time.monotonic()
    others = [each for each in settings if not each.startswith("model.")]
    done = invoke("plan", "--run", tmp_path / "run", *others, *down, "plan.pilot=2")
    assert isinstance(done.exception, BackendError)
    assert "The model of the setting 'model' is not available" in str(done.exception)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("knows", [True, False])
def test_lists_have_as_many_calls_as_the_run_has_fitted(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, knows: bool
) -> None:
    oracle = list_worlds.install(monkeypatch)
    oracle.knows = knows
    run = list_worlds.make_run(tmp_path, "plan.sample=5", "retrieve.order=fitted")
    default = json.loads(invoke("plan", "--run", run, "--json").stdout)
    assert default["lists"]["calls"] == 20
    assert default["lists"]["reason"].endswith("and retrieve.budget sets the number.")

    done = invoke("fit-lists", "--run", run, "--budget", 38)
    assert done.exit_code == 0, done.output
    content = json.loads((run / "lists/0.json").read_text())
    assert bool(content["budget"]) == knows
    with MllmMsr.from_run(run) as model:
        plan = model.plan
    found = json.loads(invoke("plan", "--run", run, "--json").stdout)
    assert found["lists"] == {"calls": plan.budget, "reason": str(plan)}
    assert plan.budget == content["budget"]
    listed = [order["work"] for order in found["orders"] if "list" in order["work"]]
    assert listed == ([f"a list of {plan.budget} items"] if plan.budget else [])
    text = " ".join(invoke("plan", "--run", run).stdout.split())
    assert str(plan) in text

    changed = json.loads(invoke("plan", "--run", run, "retrieve.budget=7", "--json").stdout)
    assert changed["lists"]["calls"] == 7
    assert "a list of 7 items" in [order["work"] for order in changed["orders"]]

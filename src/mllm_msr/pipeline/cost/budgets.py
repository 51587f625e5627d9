"""Check of a run's budgets (`plan.budget_*`) against its cost estimate."""

from __future__ import annotations

from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.cost import estimate


def warnings(context: RunContext, settings: Settings) -> list[str]:
    """Return one sentence for each budget of `plan.*` that the rest of the run would exceed."""
    budgets = {
        "price": settings.plan.budget_price,
        "hours": settings.plan.budget_hours,
        "tokens": settings.plan.budget_tokens,
    }
    if not any(budgets.values()):
        return []
    report = estimate.plan(context, settings)
    estimates = {"price": report.price, "hours": report.hours, "tokens": report.tokens}
    found = []
    for name, budget in budgets.items():
        value = estimates[name]
        if budget is not None and value is None:
            found.append(
                f"Cannot check plan.budget_{name}={budget:g} without a rate. Set plan.prompt_rate "
                "and plan.output_rate, or plan.pilot."
            )
        elif budget is not None and value is not None and value > budget:
            found.append(
                f"The run is estimated to exceed plan.budget_{name}={budget:g}, with "
                f"{value:,.2f} (output lengths from {report.lengths_by}). Reduce the run, or "
                "raise the budget."
            )
    return found

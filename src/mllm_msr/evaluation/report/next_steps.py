"""Advice for runs in which a baseline without a language model is ahead of the fine-tuned model.

Small data and short trainings often end like this. The report and the command line then say what to
use instead, and what would help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mllm_msr import registry
from mllm_msr.errors import MissingExtraError
from mllm_msr.evaluation.comparisons import MAIN
from mllm_msr.evaluation.metrics import higher_is_better
from mllm_msr.evaluation.report.tables import ResultTable, Row, Verdict

# Runs with fewer users get the advice that more data help.
_FEW_USERS: Final = 1000


def next_steps(
    tables: Sequence[ResultTable],
    verdicts: Sequence[Verdict],
    *,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    labels: Mapping[str, str],
) -> list[str]:
    """Return advice if a baseline is ahead of the fine-tuned model for all kinds of negatives.

    Args:
        tables: The result tables.
        verdicts: Comparisons of the main model with the others.
        config: The run's settings.
        manifest: Finished stages by name, with `counts`.
        labels: Labels by model name.

    Returns:
        The finding, then what to do; nothing if MLLM-MSR is ahead for some kind of negatives, or
        was not evaluated.
    """
    standings = [
        (table, own, _best_baseline(table))
        for table in tables
        for own in table.rows
        if own.model == MAIN and own.cells and own.cells[0].mean is not None
    ]
    found = [(table, own, best) for table, own, best in standings if best is not None]
    if not found or not all(_is_ahead(table, best, own) for table, own, best in found):
        return []
    name, other = (labels.get(row.model, row.model) for row in found[0][1:])
    worse = {verdict.other for verdict in verdicts if verdict.outcome == "worse"}
    finding = "has a higher mean, without a significant difference, and"
    if found[0][2].model in worse:
        finding = "is significantly better and"
    sentence = (
        f"{name} is {_standing(found)} here. {other} {finding} needs no language model. To "
        "recommend without the language model, by the candidate generators alone, add --budget 0 "
        "to 'mllm-msr recommend'."
    )
    return [sentence, *_improvements(config, manifest)]


def _best_baseline(table: ResultTable) -> Row | None:
    """Return the best baseline of a table that works without a language model; rows are sorted."""
    for row in table.rows:
        if row.cells and row.cells[0].mean is not None and _needs_no_llm(row.model):
            return row
    return None


def _needs_no_llm(model: str) -> bool:
    """Return whether a model is a baseline that works without a language model.

    That is unknown for external scores and without the extra `baselines`, and ensembles have
    MLLM-MSR as a member by default.
    """
    if model not in registry.names("baselines"):
        return False
    try:
        baseline = registry.find_baseline(model)
    except MissingExtraError:  # a run can be evaluated without the extra of its baselines
        return False
    is_ensemble = getattr(baseline, "default_members", None) is not None
    return not (baseline.requires_llm or baseline.reads_mllm or is_ensemble)


def _is_ahead(table: ResultTable, row: Row, other: Row) -> bool:
    first, second = row.cells[0].mean or 0.0, other.cells[0].mean or 0.0
    return first > second if higher_is_better(table.metrics[0]) else first < second


def _standing(found: Sequence[tuple[ResultTable, Row, Row]]) -> str:
    """Say whether the main model is better than random order in any table."""
    for table, own, _ in found:
        expected = table.expected
        limit = own.cells[0].mean if own.cells[0].low is None else own.cells[0].low
        if expected is None or not expected.cells or expected.cells[0].mean is None:
            return "not the best model"
        if limit is not None and limit > expected.cells[0].mean:
            return "better than random order, but not the best model"
    return "not significantly better than random order"


def _improvements(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """Return what may improve the model, by the settings that the run does not use yet."""
    train, steps = config.get("train", {}), []
    backend = config.get("model", {}).get("backend")
    if config.get("recommend", {}).get("collaborative") == "none" and _runs_here(backend):
        steps.append(
            "Let the model read what a baseline knows about users and items, in a new run: "
            "recommend.collaborative=gru4rec_f, or sasrec for data with many interactions."
        )
    if train.get("max_targets"):
        steps.append(
            f"Train on more targets, in a new run: this one has train.max_targets="
            f"{train['max_targets']}."
        )
    n_users = manifest.get("prepare", {}).get("counts", {}).get("users")
    if n_users is not None and n_users < _FEW_USERS:
        steps.append(f"Use more data: this run has {n_users} users.")
    return steps


def _runs_here(backend: object) -> bool:
    if backend not in registry.names("backends"):
        return False
    return registry.find_backend(str(backend)).is_local

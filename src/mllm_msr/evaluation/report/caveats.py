"""Caveats of the report: limits of the conclusions from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mllm_msr import registry
from mllm_msr.evaluation.report.run_status import time_limit_notes
from mllm_msr.evaluation.report.tables import POPULARITY, ResultTable

_FEW_USERS: Final = 200
_MANY_TIES: Final = 0.05


def caveats(
    config: Mapping[str, Any],
    *,
    tables: Sequence[ResultTable],
    details: Mapping[str, Any],
    manifest: Mapping[str, Any],
    labels: Mapping[str, str],
) -> list[str]:
    """Return the caveats that apply to a run, the most important ones first.

    Args:
        config: The run's settings.
        tables: The result tables.
        details: `Evaluation.details`.
        manifest: Finished stages by name, with `counts`.
        labels: Labels by model name.
    """
    summary_counts = manifest.get("summarize", {}).get("counts", {})
    notes = _data_caveats(config, summary_counts.get("source_coverage"))
    if any(table.kind != "full" for table in tables):
        notes.append(
            "Metrics on sampled candidates can rank models differently from metrics on the full "
            "catalog. Consider both if both are shown."
        )
    sizes = {table.n_users for table in tables} or {0}
    if min(sizes) < _FEW_USERS:
        where = "One of the tables has" if len(sizes) > 1 else "This run has"
        notes.append(f"{where} only {min(sizes)} test users, so intervals are wide.")
    notes += _tie_caveats(tables, labels)
    notes += [
        f"{labels.get(model, model)}: {count} lists without a positive or without a negative were "
        "left out."
        for model, count in details.get("undefined", {}).items()
        if count
    ]
    notes += [
        f"{labels.get(model, model)} could not score {count} candidates, which rank last."
        for model, count in details.get("unscored", {}).items()
        if count
    ]
    notes += [
        f"{labels.get(model, model)}: {note}." for model, note in time_limit_notes(manifest).items()
    ]
    evaluated = {
        row.model for table in tables for row in table.rows if any(c.mean for c in row.cells)
    }
    if POPULARITY not in evaluated:
        notes.append(
            "Popularity was not evaluated. Without this baseline, results are hard to interpret."
        )
    return notes


def _tie_caveats(tables: Sequence[ResultTable], labels: Mapping[str, str]) -> list[str]:
    """Return a caveat for each table in which some models give many users tied scores."""
    notes = []
    for table in tables:
        tied = [
            f"{labels.get(row.model, row.model)} ({row.ties:.0%} of the users)"
            for row in table.rows
            if row.role != "popularity" and (row.ties or 0.0) > _MANY_TIES
        ]
        if tied:
            notes.append(
                f"{table.title}: the true item has the same score as another candidate for "
                f"{', '.join(tied)}. Ties count with their expected value under random order."
            )
    return notes


def _data_caveats(config: Mapping[str, Any], source_coverage: float | None) -> list[str]:
    """Return the caveats that follow from the settings."""
    data = config.get("data", {})
    notes = []
    backend, dataset = config.get("model", {}).get("backend"), config.get("dataset")
    if backend in registry.names("backends"):
        kind = registry.find_backend(backend)
        projector = config.get("align", {}).get("enabled") or config["model"].get("projector")
        # A run that reads no images does not use the checkpoint's projector either.
        unused = not _reads_images(config)
        note = kind.caveat(source_coverage, has_own_projector=bool(projector) or unused)
        notes += [note] if note else []
    if data.get("protocol") == "released-code":
        notes.append(
            "BIASED PROTOCOL. This run uses the protocol of the released code: it selects items by "
            "global frequency, and the target is not the user's next item, which favors popular "
            "items. Use it to reproduce results, not to compare methods."
        )
    if dataset in registry.names("datasets"):
        source = registry.find_dataset(dataset)
        notes += [source.caveat] if source.caveat else []
    folds, ran = data.get("folds"), data.get("run_folds")
    n_ran = len(ran) if isinstance(ran, (list, tuple)) else ran
    if isinstance(folds, int) and isinstance(n_ran, int) and n_ran < folds:
        verb = "was" if n_ran == 1 else "were"
        notes.append(
            f"Only {n_ran} of {folds} folds {verb} run. The users of the other folds were not "
            "tested."
        )
    return notes


def _reads_images(config: Mapping[str, Any]) -> bool:
    """Check whether summaries or the ranker read images."""
    summarize, recommend = config.get("summarize", {}), config.get("recommend", {})
    describes = summarize.get("enabled", True) and "image" in summarize.get("modalities", ["image"])
    return bool(describes or recommend.get("use_images", True))

"""What the report says, as plain records: tables, verdicts, costs and caveats, without markup.

Sits between the evaluation's results and the report's two templates, so that HTML and Markdown
cannot disagree. Nothing here is invented: what was not measured is absent or said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

SHOWN: Final = ("auc", "hr@5", "mrr@5", "ndcg@5")
SHOWN_FULL: Final = ("auc", "hr@10", "mrr@10", "ndcg@10")
POOLED: Final = "auc pooled"
ALPHA: Final = 0.05

_LABELS: Final[Mapping[str, str]] = {
    "mllm_msr": "MLLM-MSR",
    "mllm_msr_direct": "MLLM-MSR R",
    "mllm_msr_text_only": "MLLM-MSR T",
    "zero_shot": "Zero-shot",
    "popularity": "Popularity",
    "item_knn": "Item-kNN",
    "content_knn": "Content-kNN",
    "transitions": "Transitions",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "mmgcn": "MMGCN",
    "mgat": "MGAT",
    "mmsr": "MMSR",
    "trans2d": "Trans2D",
    "tallrec": "TALLRec",
    "hybrid": "Hybrid",
    "gru4rec_f": "GRU4Rec F",
    "sasrec_f": "SASRec F",
    "llava_zero_shot": "LLaVA zero-shot",
}
_REMARKS: Final[Mapping[str, str]] = {
    "mllm_msr_direct": "whole history in one prompt",
    "mllm_msr_text_only": "no image summaries",
    "zero_shot": "without fine-tuning",
    "popularity": "counts of training users",
    "gru4rec_f": "with content vectors",
    "sasrec_f": "with content vectors",
    "random": "theory",
}
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "uniform": (
        "Uniform negatives",
        "The other candidates were drawn evenly from the items that the user never chose.",
    ),
    "popularity": (
        "Popularity negatives",
        "The other candidates were drawn by popularity, so that being popular is no help.",
    ),
    "full": ("Full catalogue", "Every item that the user had not chosen yet is a candidate."),
}
_TOKENS: Final = ("prompt_tokens", "output_tokens", "hits", "misses")


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a result table, with its interval where there is one."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result table. `role`: ours, baseline, floor (popularity) or chance."""

    model: str
    label: str
    remark: str
    role: str
    cells: tuple[Cell, ...]
    ties: float | None = None


@dataclass(frozen=True, slots=True)
class ResultTable:
    """All models under one kind of negatives."""

    kind: str
    title: str
    note: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    n_users: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The main model against another one, in one metric, on common users."""

    kind: str
    metric: str
    other: str
    difference: float
    low: float
    high: float
    better: float
    worse: float
    n: int
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference stands after correction for the number of comparisons."""
        return self.p < ALPHA


@dataclass(frozen=True, slots=True)
class Cost:
    """What one stage took. `cached` is the share of responses that had been computed before."""

    stage: str
    seconds: float
    calls: int | None
    prompt_tokens: int | None
    output_tokens: int | None
    cached: float | None
    others: tuple[tuple[str, float], ...]


def label(model: str) -> str:
    """How a model is called in the report."""
    return _LABELS.get(model, model)


def kind_title(kind: str) -> str:
    """How a kind of negatives is called in the report."""
    return _KINDS.get(kind, (kind, ""))[0]


def ordered_kinds(kinds: Sequence[str]) -> list[str]:
    """Kinds of negatives in the order of the report: uniform, popularity, full, then others."""
    return [k for k in _KINDS if k in kinds] + sorted(k for k in kinds if k not in _KINDS)


def main_model(metrics: Mapping[str, Any]) -> str:
    """The model that the report is about: `mllm_msr`, else the best that is no yardstick.

    The best has the highest mean AUC under the first kind of negatives, in the report's order.
    """
    if "mllm_msr" in metrics:
        return "mllm_msr"

    def auc(model: str) -> float:
        kinds = ordered_kinds(list(metrics[model]))
        return metrics[model][kinds[0]].get("auc", {"mean": 0.0})["mean"] if kinds else 0.0

    return max(contenders(metrics) or metrics, key=auc, default="")


def contenders(metrics: Mapping[str, Any]) -> list[str]:
    """The models that are no yardsticks."""
    return [model for model in metrics if model not in {"popularity", "zero_shot"}]


def result_tables(
    metrics: Mapping[str, Any],
    *,
    chance: Mapping[str, Mapping[str, float]],
    main: str,
    shown: Sequence[str] | None = None,
    n_seeds: Mapping[str, int] | None = None,
) -> list[ResultTable]:
    """One table per kind of negatives: best first, then random order; popularity always there.

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.
        chance: `{negatives: {metric: value}}` of random order.
        main: The model to set off.
        shown: Metrics to show, in this order; `SHOWN`, or `SHOWN_FULL` for the full catalogue,
            where none are named.
        n_seeds: Number of seeds of the models that were run with several.
    """
    seeds = n_seeds or {}
    tables = []
    for kind in ordered_kinds(list({kind for by_kind in metrics.values() for kind in by_kind})):
        entries = {model: by_kind[kind] for model, by_kind in metrics.items() if kind in by_kind}
        wanted = shown or (SHOWN_FULL if kind == "full" else SHOWN)
        columns = tuple(name for name in wanted if any(name in entry for entry in entries.values()))
        best = {
            name: max(entry[name]["mean"] for entry in entries.values() if name in entry)
            for name in columns
        }
        first = columns[0] if columns else "auc"
        names = sorted(entries, key=lambda m: -entries[m].get(first, {"mean": 0.0})["mean"])
        rows = [
            _row(m, entries[m], columns, best=best, main=main, n_seeds=seeds.get(m, 1))
            for m in names
        ]
        if "popularity" not in entries:
            blank = tuple(Cell(None) for _ in columns)
            rows.append(Row("popularity", label("popularity"), "not evaluated", "floor", blank))
        if kind in chance:
            cells = tuple(Cell(chance[kind].get(name)) for name in columns)
            rows.append(Row("random", "Random order", _REMARKS["random"], "chance", cells))
        title, note = _KINDS.get(kind, (kind, ""))
        counts = [entry[first]["n"] for entry in entries.values() if first in entry]
        tables.append(
            ResultTable(kind, title, note, columns, tuple(rows), int(max(counts, default=0)))
        )
    return tables


def every_cut_off(
    metrics: Mapping[str, Any],
    *,
    chance: Mapping[str, Mapping[str, float]],
    main: str,
    pooled: Mapping[str, Mapping[str, float]],
) -> list[ResultTable]:
    """The same tables with every metric, and AUC over all users' rows at once beside it.

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.
        chance: `{negatives: {metric: value}}` of random order.
        main: The model to set off.
        pooled: `{model: {negatives: pooled AUC}}`.
    """
    joined: dict[str, dict[str, dict[str, Any]]] = {}
    for model, by_kind in metrics.items():
        for kind, entry in by_kind.items():
            value = pooled.get(model, {}).get(kind)
            beside = {} if value is None else {POOLED: {"mean": value, "low": None, "high": None}}
            joined.setdefault(model, {})[kind] = {**entry, **beside}
    names = [name for by_kind in joined.values() for entry in by_kind.values() for name in entry]
    rest = dict.fromkeys(name for name in names if name not in {"auc", POOLED, "ties"})
    half = {kind: {**values, POOLED: values.get("auc", 0.5)} for kind, values in chance.items()}
    return result_tables(joined, chance=half, main=main, shown=["auc", POOLED, *rest])


def verdicts(
    comparisons: Sequence[Mapping[str, Any]], *, main: str, metric: str = "auc"
) -> list[Verdict]:
    """Comparisons of the main model with every other one, seen from the main model."""
    found = []
    for record in comparisons:
        if record["metric"] != metric or main not in (record["first"], record["second"]):
            continue
        forward = record["first"] == main
        sign = 1.0 if forward else -1.0
        ends = sorted((sign * record["low"], sign * record["high"]))
        found.append(
            Verdict(
                kind=record["negatives"],
                metric=metric,
                other=label(record["second"] if forward else record["first"]),
                difference=sign * record["difference"],
                low=ends[0],
                high=ends[1],
                better=record["better"] if forward else record["worse"],
                worse=record["worse"] if forward else record["better"],
                n=record["n"],
                p=record["p_holm"],
            )
        )
    order = ordered_kinds([verdict.kind for verdict in found])
    return sorted(found, key=lambda verdict: (order.index(verdict.kind), -verdict.difference))


def costs(stages: Mapping[str, Any]) -> list[Cost]:
    """Cost of each finished stage, in the order of the manifest."""
    return [_cost(name, entry) for name, entry in stages.items()]


def health(
    summaries: pl.DataFrame | None, preferences: pl.DataFrame | None
) -> list[tuple[str, str, int, float]]:
    """How many images could be read and how many generated texts carry a remark.

    Returns:
        Rows (table, remark, count, share of the table's rows).
    """
    rows: list[tuple[str, str, int, float]] = []
    if summaries is not None and summaries.height:
        counts = summaries["image_status"].fill_null("missing").value_counts(sort=True)
        rows += [
            ("images", status, count, count / summaries.height)
            for status, count in counts.iter_rows()
        ]
    for name, frame in (("summaries", summaries), ("preferences", preferences)):
        if frame is None or not frame.height:
            continue
        flags = frame["flags"].fill_null("").str.split(",").explode(empty_as_null=True)
        counts = flags.filter(flags.fill_null("") != "").value_counts(sort=True)
        none = int((frame["flags"].fill_null("") == "").sum())
        rows.append((name, "no remark", none, none / frame.height))
        rows += [(name, flag, count, count / frame.height) for flag, count in counts.iter_rows()]
    return rows


# Well below what the packaged model carries over where it can read (docs/model-card.md).
_CARRIED_AT_HOME: Final = 0.8


def caveats(
    config: Mapping[str, Any],
    *,
    tables: Sequence[ResultTable],
    undefined: Mapping[str, int],
    carried: float | None = None,
) -> list[str]:
    """What a reader must know before quoting a number of this run.

    `carried` is the share of the text summaries' words that occur in what they summarise.
    """
    data = config.get("data", {})
    notes = _out_of_depth(config, carried)
    if data.get("protocol") == "released-code":
        notes.append(
            "UNSOUND PROTOCOL. This run repeats the released code: items are chosen by global "
            "frequency and the target is not the user's next item, which rewards popularity. Use "
            "it to reproduce, not to compare."
        )
    if config.get("dataset") == "demo":
        notes.append(
            "The data are generated. They show that every part of the chain works; they say "
            "nothing about people."
        )
    folds, ran = data.get("folds"), data.get("run_folds")
    n_ran = len(ran) if isinstance(ran, (list, tuple)) else ran
    if isinstance(folds, int) and isinstance(n_ran, int) and n_ran < folds:
        notes.append(f"{n_ran} of {folds} folds were run; the other folds' users were not tested.")
    if any(table.kind != "full" for table in tables):
        notes.append(
            "Metrics over a sample of candidates can order models otherwise than metrics over the "
            "full catalogue; read both where both are given."
        )
    smallest = min((table.n_users for table in tables), default=0)
    if smallest < 200:
        notes.append(f"Only {smallest} users were tested in one of the tables: intervals are wide.")
    notes += [
        f"{row.label}, {table.title.lower()}: the true item ties with a negative for "
        f"{row.ties:.0%} of users; ties count by their expected value."
        for table in tables
        for row in table.rows
        if row.role != "floor" and (row.ties or 0.0) > 0.05
    ]
    notes += [
        f"{label(model)}: {count} lists had no positive or no negative and were left out."
        for model, count in undefined.items()
        if count
    ]
    if not any(row.model == "popularity" and row.cells[0].mean for t in tables for row in t.rows):
        notes.append("Popularity was not evaluated: without that row these numbers mislead.")
    return notes


def _row(
    model: str, entry: Mapping[str, Any], columns: Sequence[str], *,
    best: Mapping[str, float], main: str, n_seeds: int,
) -> Row:  # fmt: skip
    cells = []
    for name in columns:
        found = entry.get(name)
        if found is None:
            cells.append(Cell(None))
        else:
            is_best = found["mean"] == best[name]
            cells.append(Cell(found["mean"], found["low"], found["high"], best=is_best))
    role = "ours" if model == main else "floor" if model == "popularity" else "baseline"
    ties = entry["ties"]["mean"] if "ties" in entry else None
    remarks = [_REMARKS.get(model, ""), f"mean of {n_seeds} seeds" if n_seeds > 1 else ""]
    remark = ", ".join(filter(None, remarks))
    return Row(model, label(model), remark, role, tuple(cells), ties)


def _cost(stage: str, entry: Mapping[str, Any]) -> Cost:
    counts = entry.get("counts", {})
    hits, misses = counts.get("hits"), counts.get("misses")
    asked = (hits or 0) + (misses or 0)
    return Cost(
        stage=stage,
        seconds=float(entry.get("seconds", 0.0)),
        calls=None if misses is None else int(misses),
        prompt_tokens=_whole(counts.get("prompt_tokens")),
        output_tokens=_whole(counts.get("output_tokens")),
        cached=hits / asked if hits is not None and asked else None,
        others=tuple((name, value) for name, value in counts.items() if name not in _TOKENS),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _out_of_depth(config: Mapping[str, Any], carried: float | None) -> list[str]:
    """Whether the packaged model read what it does not know, as far as that can be measured."""
    if config.get("model", {}).get("backend") != "demo" or carried is None:
        return []
    if carried >= _CARRIED_AT_HOME:
        return []
    note = (
        f"THE PACKAGED MODEL IS OUT OF ITS DEPTH. Only {carried:.0%} of the words of its text "
        f"summaries occur in the items' texts (on its own world more than {_CARRIED_AT_HOME:.0%}), "
        "and a image that it does not know it describes as one that it knows. Take these figures "
        "as a test of the software, and a larger model for recommendations."
    )
    return [note]

"""Ranking metrics of one user's list, one per file (paper, section "Experiments").

The file name is the name of the metric: `hr.py` defines "hr@1", "hr@5", ... A new file is a new
metric; no other file has to change. All metrics follow these rules:

- **Ties.** A value is the expectation over all orders of equal scores. A constant score therefore
  gets the value of chance: AUC 1/2, HR@5 5/21 against 20 negatives.
- **Several positives.** Every metric is defined for any number of positives; each file states how.
- **One class.** A list without a positive or without a negative has no defined value: NaN in every
  metric. The evaluator counts such lists and leaves them out of the means.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, cast

from mllm_msr import registry
from mllm_msr.errors import SettingsError
from mllm_msr.evaluation.metrics._base import Metric

__all__ = [
    "FULL_K",
    "HEADLINE",
    "KS",
    "SECONDARY",
    "SUMMARY_K",
    "TIES",
    "Metric",
    "configured",
    "descriptions",
    "find",
    "higher_is_better",
    "label",
    "metric_names",
    "summary_names",
]

KS: Final = (1, 3, 5, 10, 20)
# Cut-offs of the summary tables: for sampled candidates and for the full catalog.
SUMMARY_K: Final = 5
FULL_K: Final = 10

# HEADLINE sorts the models in every table. SECONDARY is a metric with a cut-off that some tables
# show next to it, and that tuning maximizes by default.
HEADLINE: Final = "auc"
SECONDARY: Final = f"ndcg@{SUMMARY_K}"
TIES: Final = "ties"


def configured(ks: Sequence[int] = KS) -> dict[str, Metric]:
    """Return all metrics at all cut-offs by name: the headline metric first, then alphabetical.

    Args:
        ks: Cut-offs, in the order of the result; metrics without a cut-off occur once.

    Raises:
        SettingsError: A cut-off is not a whole number of at least 1.
    """
    wrong = [k for k in ks if not isinstance(k, int) or isinstance(k, bool) or k < 1]
    if wrong:
        raise SettingsError(
            [f"evaluate.ks={list(ks)}: must be whole numbers of at least 1, but contains {wrong}."]
        )
    found: dict[str, Metric] = {}
    for name, metric in _classes().items():
        if metric.takes_k:
            found |= {f"{name}@{k}": metric(k) for k in ks}
        else:
            found[name] = metric()
    return found


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """Return the names of all metrics for some cut-offs, in the order of the tables.

    >>> names = metric_names([1, 5])
    >>> names[0], {"hr@1", "hr@5"} <= set(names)
    ('auc', True)
    """
    return list(configured(ks))


def summary_names(k: int = SUMMARY_K) -> tuple[str, ...]:
    """Return the names of the metrics in the main tables at one cut-off, the headline metric first.

    >>> names = summary_names(k=10)
    >>> names[0], "ndcg@10" in names
    ('auc', True)
    """
    return tuple(name for name, metric in configured([k]).items() if metric.in_summary)


def find(name: str) -> Metric:
    """Return a metric by name.

    Args:
        name: Name with a cut-off if the metric takes one, such as "auc" or "ndcg@5".

    Raises:
        UnknownNameError: There is no such metric. The message lists all names.
    """
    cut_off = name.partition("@")[2]
    ks = [int(cut_off)] if cut_off.isdecimal() and int(cut_off) > 0 else []
    known = configured(ks)
    if name not in known:
        raise registry.unknown_name_error("metric", name, metric_names())
    return known[name]


def label(name: str) -> str:
    """Return the label of a metric in tables; unknown names are returned unchanged.

    >>> label("auc"), label("precision@5")
    ('AUC', 'Precision@5')
    """
    prefix, mark, cut_off = name.partition("@")
    metric = _classes().get(prefix)
    return name if metric is None else f"{metric.label}{mark}{cut_off}"


def higher_is_better(name: str) -> bool:
    """Return whether larger values of a metric are better; True for unknown metrics."""
    metric = _classes().get(name.partition("@")[0])
    return metric is None or metric.higher_is_better


def descriptions() -> dict[str, str]:
    """Return the description of each metric by its label, such as "HR@k"."""
    return {
        f"{metric.label}@k" if metric.takes_k else metric.label: metric.description
        for metric in _classes().values()
    }


@functools.cache
def _classes() -> dict[str, type[Metric]]:
    """Return the classes of all metrics by name, the headline metric first."""
    names = sorted(registry.names("metrics"), key=lambda name: (name != HEADLINE, name))
    return {name: cast("type[Metric]", registry.find("metrics", name)) for name in names}

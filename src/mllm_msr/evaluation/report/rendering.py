"""Jinja environment of the report: templates, filters and escaping."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import jinja2

from mllm_msr.data.images import thumbnail_data_url
from mllm_msr.errors import ImageError
from mllm_msr.evaluation import metrics
from mllm_msr.evaluation.metrics import HEADLINE
from mllm_msr.evaluation.report.run_status import count_words, warning_words
from mllm_msr.evaluation.report.tables import POOLED, RANDOM, kind_title


def environment(labels: Mapping[str, str]) -> jinja2.Environment:
    """Return the environment that renders the templates; with the same labels, the same one.

    Text is escaped in the HTML templates. Markdown templates escape it with the filter `cell`.

    Args:
        labels: Labels by model name; the filter `label` shows other models by their name.
    """
    return _environment(tuple(labels.items()))


@functools.lru_cache(maxsize=8)
def _environment(labels: tuple[tuple[str, str], ...]) -> jinja2.Environment:
    """Make an environment, which keeps the templates that it has compiled."""
    names = {RANDOM: "Random order", **dict(labels)}
    metric_labels = {POOLED: f"Pooled {metrics.label(HEADLINE)}"}
    result = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.jinja",)),
    )
    result.filters |= {
        "duration": duration,
        "percent": lambda value: f"{value:.0%}",
        "thousands": lambda value: f"{value:,.0f}",
        "count": lambda value: f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}",
        "decimals": lambda value: "–" if value is None else f"{value:.3f}",
        "signed": lambda value: f"{value:+z.3f}".replace("-", "\u2212"),
        "p_value": lambda value: "< 0.001" if value < 0.001 else f"= {value:.3f}",
        "thumbnail": _thumbnail,
        "label": lambda model: names.get(model, model),
        "metric": lambda name: metric_labels.get(name) or metrics.label(name),
        "kind_title": kind_title,
        "stage": lambda stage: _stage_words(stage, names),
        "warning_words": warning_words,
        "count_words": count_words,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "cell": _markdown_cell,
    }
    return result


def source(name: str) -> str | None:
    """Return the text of a file in `templates/`, or None if there is none."""
    resource = files("mllm_msr.evaluation.report") / "templates" / name
    return resource.read_text(encoding="utf-8") if resource.is_file() else None


def style_sheet() -> str:
    """Return the style sheet of the page: the tokens that it shares with the web page, and its own.

    The rules for printing come last, so that they take precedence.
    """
    tokens = files("mllm_msr") / "_style" / "tokens.css"
    own = (source(name) or "" for name in ("report.css", "case_study.css", "print.css"))
    return "\n".join([tokens.read_text(encoding="utf-8"), *own])


def duration(seconds: float) -> str:
    """Format seconds in the two largest units.

    >>> duration(0.25), duration(75), duration(7260)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _stage_words(stage: str, labels: Mapping[str, str]) -> str:
    """Return a stage with the label of its model or its fold ("score SASRec", "train fold 0")."""
    name, _, run = stage.partition("/")
    if run.isdecimal():
        return f"{name} fold {run}"
    model, _, seed = run.partition("@")
    words = [name, labels.get(model, model), f"seed {seed}" if seed else ""]
    return " ".join(filter(None, words))


def _thumbnail(path: Path | None, size: int) -> str:
    """Return a `data:` URL, or an empty string if there is no readable image."""
    if path is None:
        return ""
    try:
        return thumbnail_data_url(path, size)
    except ImageError:
        return ""


def _markdown_cell(value: object) -> str:
    """Escape text so that it stays in its cell of a Markdown table and contains no markup."""
    text = " ".join(str(value).split())
    # An underscore inside a word is no markup.
    return re.sub(r"[\\`*\[\]<>|#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)

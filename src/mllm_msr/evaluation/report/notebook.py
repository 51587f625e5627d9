"""HTML fragments that notebooks show for runs, results and lists of recommendations.

A fragment is self-contained: it has its own style and images as `data:` URLs, and its rules apply
to nothing outside it. Text from data and models is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from types import MappingProxyType

from markupsafe import Markup

from mllm_msr.evaluation.report.rendering import environment, source


def render(
    template: str, *, labels: Mapping[str, str] = MappingProxyType({}), **values: object
) -> str:
    """Render a template of `templates/notebook/`, with its style.

    Args:
        template: Name of the template ("run").
        labels: Labels by model name.
        **values: Variables of the template.
    """
    tokens = (files("mllm_msr") / "_style" / "tokens.css").read_text(encoding="utf-8")
    # The variables belong to the fragment, not to the page around it.
    style = tokens.replace(":root", ".mllm-msr") + (source("notebook/notebook.css") or "")
    body = environment(labels).get_template(f"notebook/{template}.html.jinja").render(values)
    return f'<div class="mllm-msr"><style>{style}</style>{body}</div>'


def frame(page: str) -> str:
    """Return a frame that shows a self-contained HTML page apart from the page around it."""
    return (
        '<iframe title="Report" sandbox="allow-scripts allow-popups" '
        f'style="width:100%;height:720px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    )


def mark_phrases(text: str, phrases: Iterable[str]) -> Markup:
    """Return a text as HTML, with phrases in it marked.

    Args:
        text: Any text.
        phrases: Texts to mark; upper and lower case are the same.

    >>> mark_phrases("Calm films & songs", ["calm films"])
    Markup('<mark>Calm films</mark> &amp; songs')
    """
    wanted = sorted({phrase for phrase in phrases if phrase}, key=len, reverse=True)
    if not wanted:
        return Markup.escape(text)
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, wanted))})(?!\w)"
    parts = re.split(pattern, text, flags=re.IGNORECASE)
    escaped = (Markup.escape(part) for part in parts)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if at % 2 else part
        for at, part in enumerate(escaped)
    )

"""Names of the files and folders inside a run folder.

Every path that more than one module uses is a constant here.
"""

from __future__ import annotations

from typing import Final

MANIFEST: Final = "manifest.json"
CONFIG: Final = "config.yaml"
DATASET: Final = "dataset.json"
METRICS: Final = "metrics.json"
REPORT_HTML: Final = "report.html"
REPORT_MARKDOWN: Final = "report.md"

RESPONSE_CACHE: Final = "cache/responses.sqlite"
RETRIEVAL_CACHE: Final = "cache/retrieval"

# Content vectors that baselines share, each under the hash of its encoder and its content.
CONTENT_CACHE: Final = "cache/content"
# Training states of baselines; removed once they have scored.
BASELINE_STATES: Final = "cache/baselines"

VARIANTS: Final = "variants"
SERVICE: Final = "service"

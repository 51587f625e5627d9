"""A small run whose texts need escaping, as arguments of `write_report`, and a page parser."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import polars as pl
from PIL import Image

from mllm_msr.evaluation.evaluator import Context, evaluate_scores
from mllm_msr.evaluation.report.case_studies import build_case_studies
from mllm_msr.evaluation.report.provenance import Provenance
from mllm_msr.tables import (
    INTERACTIONS,
    ITEMS,
    PREFERENCES,
    SCORES,
    SUMMARIES,
    TARGET_PROFILES,
    TOP,
)

EVIL = "<script>alert(1)</script>"
EVIL_MARKDOWN = "a | b\n# c [x](http://evil)"


class Page(HTMLParser):
    """Parser that collects tags, attributes and text, as a browser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def context(users):
    """Return cold and popular targets, and the same list of one item for every user."""
    profiles = [(0, u, "i5", 6, n % 2 * 30, 0.95, 0.5) for n, u in enumerate(users)]
    popularity = {"fold": [0], "item_id": ["i5"], "n": [30], "percentile": [0.95], "bits": [1.0]}
    top = [(0, u, 1, "i5", 0.5) for u in users]
    return Context(
        profiles=pl.DataFrame(profiles, schema=dict(TARGET_PROFILES), orient="row"),
        popularity=pl.DataFrame(popularity, schema_overrides={"fold": pl.Int32}),
        top={"popularity": pl.DataFrame(top, schema=dict(TOP), orient="row")},
    )


def make_run(folder, *, n_more=0):
    """Return the arguments of `write_report` for a run with missing images.

    The run has two models and `n_more` others.
    """
    Image.new("RGB", (40, 40), (200, 30, 30)).save(folder / "cover.png")
    (folder / "broken.png").write_bytes(b"<html>")
    rng = np.random.default_rng(0)
    images = ["cover.png", "broken.png", "gone.png", None]
    items = [(f"i{at}", f"Film {at} {EVIL}", "", images[at % 4]) for at in range(40)]
    users = [f"u{at} {EVIL}" for at in range(12)]
    interactions = [(u, f"i{at}", at, at) for u in users for at in range(6)]
    candidates = [
        (0, kind, u, item, int(item == "i5"))
        for u in users
        for kind in ("uniform", "popularity")
        for item in ["i5", *(f"i{at}" for at in range(10, 30))]
    ]
    keys = {name: SCORES[name] for name in SCORES if name != "score"}
    table = pl.DataFrame(candidates, schema=keys, orient="row")
    scores = {
        name: table.with_columns(
            score=pl.Series(scale * (rng.random(table.height) + table["label"].to_numpy()) / 2)
        )
        for name, scale in {
            "mllm_msr": 1.0,
            "popularity": 9.0,
            **{f"other_model_{at}": 1.0 for at in range(n_more)},
        }.items()
    }
    preferences = [(u, b, 3 + b, f"likes {EVIL} {b}", b == 2, "") for u in users for b in range(3)]
    tables = {
        "interactions": pl.DataFrame(interactions, schema=dict(INTERACTIONS), orient="row"),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        "preferences": pl.DataFrame(preferences, schema=dict(PREFERENCES), orient="row"),
    }
    evaluation = evaluate_scores(scores, context=context(users), n_resamples=50)
    case_studies = build_case_studies(
        tables["interactions"],
        tables["items"].with_columns(image=pl.lit(f"{folder}/") + pl.col("image")),
        scores=scores["mllm_msr"],
        preferences=tables["preferences"],
        users=3,
        all_scores={name: frame.lazy() for name, frame in scores.items()},
    )
    summaries = pl.DataFrame(
        [("i0", "t", None, "s", "missing", f"odd{EVIL}")], schema=dict(SUMMARIES), orient="row"
    )
    counts = {"users": 12, "items": 40, "interactions": 72}
    manifest = {
        "prepare": {"seconds": 0.5, "counts": counts, "hardware": "Zen 9, 8 cores, no GPU used"},
        "infer": {
            "seconds": 75.0,
            "model": EVIL,
            "hardware": f"Zen 9, 8 cores, {EVIL}",
            "counts": {"hits": 1, "misses": 3, "prompt_tokens": 4321},
        },
    }
    return {
        "metrics": evaluation.summary,
        "details": evaluation.details,
        "manifest": manifest,
        "config": {
            "preset": "default",
            "dataset": EVIL_MARKDOWN,
            "data": {"protocol": "leave-last-out"},
        },
        "labels": {"mllm_msr": "MLLM-MSR", "popularity": "Popularity", "sasrec": "SASRec"},
        "remarks": {"popularity": "interaction counts"},
        "case_studies": case_studies,
        "summaries": summaries,
        "preferences": tables["preferences"],
        "provenance": Provenance(
            version="1.2.3",
            created="2024-05-06 07:08 UTC",
            machine="Linux, 8 cores",
            packages={"torch": "9.9"},
            command=f"mllm-msr run --run shop 'item_type={EVIL}'",
            run="shop",
            changes={"item_type": EVIL, "train.rank": 4},
        ),
    }

"""The report is one file, escapes text from data, and shows the results."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.evaluation.evaluator import Context, evaluate_scores
from mllm_msr.evaluation.report.case_studies import build_case_studies
from mllm_msr.evaluation.report.report import write_report
from mllm_msr.interfaces import RawData
from mllm_msr.tables import (
    INTERACTIONS,
    ITEMS,
    PREFERENCES,
    SCORES,
    SUMMARIES,
    TARGET_PROFILES,
    TOP,
)
from mllm_msr.types import SourceFile

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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a small run with two models, some missing images, and texts that need escaping."""
    folder = tmp_path_factory.mktemp("run")
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
        for name, scale in (("mllm_msr", 1.0), ("popularity", 9.0))
    }
    preferences = [(u, b, 3 + b, f"likes {EVIL} {b}", b == 2, "") for u in users for b in range(3)]
    tables = {
        "interactions": pl.DataFrame(interactions, schema=dict(INTERACTIONS), orient="row"),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        "preferences": pl.DataFrame(preferences, schema=dict(PREFERENCES), orient="row"),
    }
    evaluation = evaluate_scores(scores, context=context(users), n_resamples=50)
    case_studies = build_case_studies(
        tables["interactions"], tables["items"], scores=scores["mllm_msr"],
        preferences=tables["preferences"], users=3, root=folder,
        all_scores={name: frame.lazy() for name, frame in scores.items()},
    )  # fmt: skip
    summaries = pl.DataFrame(
        [("i0", "t", None, "s", "missing", f"odd{EVIL}")], schema=dict(SUMMARIES), orient="row"
    )
    counts = {"users": 12, "items": 40, "interactions": 72}
    manifest = {
        "prepare": {"seconds": 0.5, "counts": counts},
        "infer": {
            "seconds": 75.0,
            "model": EVIL,
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
    }


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), **run)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.html.read_text(encoding="utf-8"))


def test_the_page_is_self_contained(page, written):
    sources = [value for _, name, value in page.attributes if name in {"src", "srcset"}]
    assert sources
    assert all(value.startswith("data:image/") for value in sources)
    links = {value for _, name, value in page.attributes if name == "href" and value[0] != "#"}
    assert links == {"report.md", "metrics.json", "metrics_per_user.parquet"}  # beside the page
    assert {"link", "iframe", "object"}.isdisjoint(page.tags)
    assert page.tags.count("script") == 1
    assert "@import" not in written.html.read_text(encoding="utf-8")
    assert "url(http" not in written.html.read_text(encoding="utf-8")


def test_everything_from_data_is_escaped(page, written):
    text = written.html.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert page.text.count(EVIL) > 20
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_target_is_marked_in_every_case_study(page, run):
    marked = [value for tag, name, value in page.attributes if (tag, name) == ("li", "class")]
    assert marked.count("target") >= len(run["case_studies"])
    assert page.text.count("the true next item") >= len(run["case_studies"])
    assert page.text.count("worst user by AUC") == 1


def test_results_and_references_are_shown(page, run):
    cell = run["metrics"]["mllm_msr"]["uniform"]["auc"]
    assert f"{cell['mean']:.3f} {cell['low']:.3f} – {cell['high']:.3f}" in page.text
    for words in (
        "Popularity negatives",
        "Random order",
        "0.238",
        "Ties",
        "Trans2D",
        "Precision@5",
    ):
        assert words in page.text


def test_models_without_a_label_are_shown_by_their_name(run, tmp_path):
    files = write_report(tmp_path, **run | {"labels": {}, "remarks": {}})
    text = Page(files.html.read_text("utf-8")).text
    assert text.startswith("mllm_msr on")
    assert "interaction counts" not in text


def test_costs_and_warnings_are_shown(page):
    for words in ("1 min 15 s", "4,321", "25%", "missing", "12 users", "no image"):
        assert words in page.text


def test_the_page_supports_both_themes_and_narrow_screens(written):
    text = written.html.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "max-width: 760px" in text
    assert 'name="viewport"' in text


def test_markdown_shows_the_same_results(written, run):
    text = written.markdown.read_text(encoding="utf-8")
    mean = run["metrics"]["mllm_msr"]["uniform"]["auc"]["mean"]
    assert f"| MLLM-MSR | **{mean:.3f}** (" in text
    assert "**← the true next item**" in text
    assert "| infer | 1 min 15 s | 3 | 4,321 |" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        widths = {re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}
        assert len(widths) == 1, table


def test_markdown_escapes_data(written):
    text = written.markdown.read_text(encoding="utf-8")
    assert text.startswith("# MLLM-MSR on a \\| b \\# c \\[x\\]")
    assert "[x](" not in text
    assert EVIL not in text


def test_differences_that_are_not_significant_are_named_so(run, tmp_path):
    flat = [record | {"p_holm": 0.4, "p_main": 0.3} for record in run["details"]["comparisons"]]
    changed = run | {"details": run["details"] | {"comparisons": flat}}
    files = write_report(tmp_path, **changed)
    assert "not significant" in Page(files.html.read_text(encoding="utf-8")).text
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "not significant (p = 0.300; all pairs = 0.400)" in markdown


def test_a_biased_protocol_is_marked_at_the_top(run, tmp_path):
    config = {"preset": "released-code", "data": {"protocol": "released-code"}}
    text = Page(write_report(tmp_path, **run | {"config": config}).html.read_text("utf-8")).text
    assert text.index("Biased protocol") < text.index("ranks 1st of")


def test_without_mllm_msr_the_page_is_about_the_best_model(tmp_path):
    def auc(mean):
        return {"uniform": {"auc": {"mean": mean, "low": mean, "high": mean, "n": 9}}}

    metrics = {"popularity": auc(0.9), "item_knn": auc(0.6), "sasrec": auc(0.7)}
    labels = {"sasrec": "SASRec"}
    files = write_report(
        tmp_path, metrics=metrics, details={}, manifest={}, config={}, labels=labels
    )
    text = Page(files.html.read_text("utf-8")).text
    assert "SASRec on unknown data" in text
    assert "the best of 2 models by AUC, excluding popularity and zero-shot" in text
    assert "the best of 2 models" in files.markdown.read_text("utf-8")


def test_a_report_of_the_smallest_possible_run(tmp_path):
    metrics = {"sasrec": {"full": {"auc": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 5}}}}
    files = write_report(
        tmp_path, metrics=metrics, details={}, manifest={}, config={}, show_paper_results=False
    )
    text = Page(files.html.read_text(encoding="utf-8")).text
    assert "sasrec on unknown data" in text
    assert "Popularity was not evaluated" in text
    assert "Trans2D" not in text


def test_the_report_is_deterministic(run, written, tmp_path):
    again = write_report(tmp_path, **run)
    assert again.html.read_bytes() == written.html.read_bytes()
    assert again.markdown.read_bytes() == written.markdown.read_bytes()


def test_the_page_compares_models(page, run):
    text = page.text
    for words in (
        "All pairs of models",
        "Results by user group",
        "Coverage, novelty and popularity bias",
    ):
        assert words in text
    assert "The same candidates ranked by every model" in text
    difference = next(
        r for r in run["details"]["comparisons"]
        if (r["negatives"], r["metric"]) == ("uniform", "auc")
    )  # fmt: skip
    assert f"{difference['difference']:+.3f}".replace("-", "−") in text
    for words in ("cold (at most 5) 6 users", "popular (top tenth) 6 users", "6 to 10 12 users"):
        assert words in text


def test_markdown_compares_models(written):
    text = written.markdown.read_text(encoding="utf-8")
    assert "### All pairs of models: uniform negatives, AUC" in text
    assert "| model | cold (at most 5), 6 users | popular (top tenth), 6 users |" in text
    assert "| Popularity | 1.000 |" in text


def test_only_the_page_s_own_script_is_allowed(written, page):
    text = written.html.read_text(encoding="utf-8")
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    policy = next(v for _, name, v in page.attributes if name == "content" and "default-src" in v)
    assert f"script-src {digest(script)}" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


_CLICKS = """
{
const table = document.querySelector("table.sortable");
const [name, auc] = table.querySelectorAll("thead button");
const matrices = document.querySelectorAll("[data-panel=matrix]");
const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].dataset.value).join();
const shown = () => [...matrices].map((panel) => !panel.hidden).join();
const seen = [];
for (const button of [auc, auc, name]) { button.focus(); button.click(); seen.push(order()); }
seen.push(shown());
const select = document.querySelector("[data-choices=matrix] select");
select.selectedIndex = 1;
select.dispatchEvent(new Event("change", { bubbles: true }));
seen.push(shown(), table.querySelectorAll("[aria-sort]").length);
document.body.dataset.seen = seen.join(";");
}
"""


def digest(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def browse(path, profile):
    """Return the document of the page after its scripts have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
    command = ["chromium", *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_tables_sort_and_panels_switch_in_a_browser(written, tmp_path):
    text = written.html.read_text(encoding="utf-8")
    # The policy stays in force; it allows the page's script and this additional one.
    text = text.replace("script-src ", f"script-src {digest(_CLICKS)} ")
    text = text.replace("</body>", f"<script>{_CLICKS}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    document = browse(tmp_path / "page.html", tmp_path / "profile")
    assert re.search(r'<html[^>]*class="live"', document)
    found = re.search(r'data-seen="([^"]*)"', document).group(1)
    down, up, by_name, before, after, n_sorted = found.split(";")
    assert down.split(",")[-1] == up.split(",")[0] == "Random order"
    assert by_name == "MLLM-MSR,Popularity,Random order"
    assert before.split(",").count("true") == after.split(",").count("true") == 1
    assert before != after
    assert n_sorted == "1"


def test_the_report_shows_what_was_read_and_escapes_it(tmp_path):
    source = SourceFile(tmp_path / "log.csv", "interactions", "CSV", separator=";")
    rows = pl.LazyFrame({"user_id": [EVIL], "item_id": ["v"], "timestamp": [0]})
    items = pl.DataFrame([("v", EVIL_MARKDOWN, "", None)], schema=dict(ITEMS), orient="row")
    found = describe_source(RawData(rows, items, sources=(source,)))
    interactions, counts = prepare_interactions(
        rows, min_user_interactions=1, min_item_interactions=1
    )
    data = with_filtering(found, interactions, counts, items).to_dict()
    metrics = {"popularity": {}}
    written = write_report(tmp_path, metrics=metrics, details={}, manifest={}, config={}, data=data)
    html, markdown = written.html.read_text(), written.markdown.read_text()
    page = Page(html)
    assert "separator semicolon" in page.text
    assert "No item has an image" in page.text
    assert "1970-01-01" in page.text
    assert EVIL not in html
    assert "separator semicolon" in markdown
    assert "No item has an image" in markdown
    assert EVIL not in markdown
    assert "[x](http://evil)" not in markdown
    without = write_report(tmp_path, metrics=metrics, details={}, manifest={}, config={})
    assert "<h2>Data</h2>" not in without.html.read_text()

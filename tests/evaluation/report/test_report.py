"""The report is one file, escapes text from data, and shows the results."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from dataclasses import replace

import polars as pl
import pytest

from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.evaluation.report.report import write_report
from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS
from mllm_msr.types import SourceFile
from report_runs import EVIL, EVIL_MARKDOWN, Page


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
        "Precision@k",
    ):
        assert words in page.text


def test_models_without_a_label_are_shown_by_their_name(run, tmp_path):
    files = write_report(tmp_path, **run | {"labels": {}, "remarks": {}})
    text = Page(files.html.read_text("utf-8")).text
    assert text.startswith("mllm_msr on")
    assert "interaction counts" not in text


def test_the_size_of_the_data_is_not_that_of_a_later_stage(run, tmp_path):
    n_users = run["manifest"]["prepare"]["counts"]["users"]
    distill = {"seconds": 1.0, "counts": {"users": n_users + 39}}
    files = write_report(tmp_path, **run | {"manifest": {**run["manifest"], "distill/0": distill}})
    for file in (files.html, files.markdown):
        text = file.read_text("utf-8")
        assert f"{n_users} users" in text
        assert f"{n_users + 39} users" not in text


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
    # Code shows markup as it is, so the command is not escaped.
    assert all(line.startswith("    mllm-msr ") for line in text.splitlines() if EVIL in line)


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


def test_reports_of_the_same_run_differ_only_in_their_origin(run, written, tmp_path):
    later = replace(run["provenance"], created="2031-01-01 00:00 UTC", machine="Another")
    again = write_report(tmp_path, **run | {"provenance": later})
    for before, after in ((written.html, again.html), (written.markdown, again.markdown)):
        pairs = zip(before.read_text().splitlines(), after.read_text().splitlines(), strict=True)
        changed = [old for old, new in pairs if old != new]
        assert len(changed) == 1 or all(re.match("- (Written|System): ", row) for row in changed)
        assert "2024-05-06 07:08 UTC" in "".join(changed)


def test_the_origin_of_the_report_is_stated(page, written):
    markdown = written.markdown.read_text(encoding="utf-8")
    for words in ("1.2.3", "2024-05-06 07:08 UTC", "Linux, 8 cores", "torch 9.9", "Zen 9, 8 cores"):
        assert words in page.text
        assert words in markdown
    assert "mllm-msr run --run shop" in page.text
    assert "    mllm-msr run --run shop" in markdown
    assert "train.rank 4" in page.text
    assert "| train.rank | 4 |" in markdown


def test_without_changes_the_preset_is_named(run, tmp_path):
    same = replace(run["provenance"], changes={})
    files = write_report(tmp_path, **run | {"provenance": same})
    words = "All settings have the values of the preset default"
    assert words in Page(files.html.read_text(encoding="utf-8")).text
    assert words in files.markdown.read_text(encoding="utf-8")


def test_the_contents_link_to_every_section(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    links = [
        value[1:] for tag, name, value in page.attributes if name == "href" and value[0] == "#"
    ]
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))
    sections = [
        v for tag, name, v in page.attributes if (tag, name) == ("section", "aria-labelledby")
    ]
    assert len(sections) > 8
    assert set(sections) <= set(links)


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_verdict_and_the_caveats_come_first(page, written):
    markdown = written.markdown.read_text(encoding="utf-8")
    for text in (page.text, markdown):
        verdict = text.index("MLLM-MSR ranks 1st of 2 models")
        caveat = text.index("only 12 test users")
        assert verdict < caveat < text.index("Means over users with 95%")


def test_own_data_is_named_after_its_folder(run, tmp_path):
    config = {"dataset": "files", "data": {"path": "/home/me/shop"}}
    files = write_report(tmp_path, **run | {"config": config})
    assert "<title>MLLM-MSR on shop: report</title>" in files.html.read_text(encoding="utf-8")
    assert files.markdown.read_text(encoding="utf-8").startswith("# MLLM-MSR on shop\n")


def test_models_that_are_not_ranked_are_explained(run, tmp_path):
    value = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 9}
    metrics = run["metrics"] | {"popularity": {"full": {"auc": value, "hr@10": value}}}
    setting = {"mllm_msr": "score.full_users_mllm"}
    files = write_report(tmp_path, **run | {"metrics": metrics, "ranked_by": setting})
    text = Page(files.html.read_text(encoding="utf-8")).text
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "MLLM-MSR not ranked" in text
    assert "| MLLM-MSR (not ranked) | – | – |" in markdown
    for words in (
        "MLLM-MSR is not ranked, because score.full_users_mllm is 0.",
        "mllm-msr score --run shop --force score.full_users_mllm=50",
    ):
        assert words in text
        assert words in markdown.replace("`", "")


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


def digest(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


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

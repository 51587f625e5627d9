"""Tests of the report in a real browser: sorting, copying, choosing, phones and paper."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil

import pytest

import report_runs
from mllm_msr.evaluation.report.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

WIDE = {"width": 1300, "height": 900}
PHONE = {"width": 390, "height": 844}
SMALL_PHONE = {"width": 320, "height": 640}

# Replaces the clipboard, which a browser without a window may refuse.
CLIPBOARD = """
navigator.clipboard.writeText = async (text) => { window.copied = text; };
"""
SHOW_ALL = """
() => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  document.querySelectorAll("[data-panel]").forEach((panel) => { panel.hidden = false; });
}
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser, written):
    """Return a function that opens the report, and fail if its script or its policy fails."""
    contexts, problems = [], []

    def open_page(viewport=WIDE, fragment="", **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.add_init_script(CLIPBOARD)
        page.goto(written.html.as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def models(table):
    return table.locator("tbody tr td:first-child").evaluate_all(
        "cells => cells.map((cell) => cell.dataset.value)"
    )


def test_tables_sort_by_every_column(open_report):
    table = open_report().locator("table.sortable").first
    name, auc = table.locator("thead button").nth(0), table.locator("thead button").nth(1)
    auc.click()
    assert models(table)[-1] == "Random order"
    auc.click()
    assert models(table)[0] == "Random order"
    name.press("Enter")
    assert models(table) == ["MLLM-MSR", "Popularity", "Random order"]
    assert table.locator("[aria-sort]").count() == 1


def test_panels_switch(open_report):
    page = open_report()
    panels = page.locator("[data-panel=matrix]")
    assert panels.locator("visible=true").count() > 0
    before = panels.evaluate_all("all => all.map((panel) => panel.hidden)")
    page.locator("[data-choices=matrix] select").first.select_option(index=1)
    after = panels.evaluate_all("all => all.map((panel) => panel.hidden)")
    assert before.count(False) == after.count(False) == 1
    assert before != after


def test_one_user_is_shown_until_another_one_is_chosen(open_report):
    page = open_report()
    shown = page.locator(".case-study:visible h3")
    choice = page.locator("[data-choices=case-studies] select")
    assert shown.count() == 1
    first = shown.inner_text()
    choice.select_option(index=1)
    assert shown.count() == 1
    assert shown.inner_text() != first
    choice.select_option(value="")
    assert shown.count() == page.locator(".case-study").count() == 3


def test_a_link_shows_the_user_that_it_leads_to(open_report):
    page = open_report(fragment="#user-2")
    assert page.locator(".case-study:visible h3").get_attribute("id") == "user-2"
    page.evaluate("location.hash = 'user-3'")
    page.wait_for_selector("#user-3:visible")
    assert page.locator("[data-choices=case-studies] select").input_value() == "3"


def copied(page, format_):
    page.evaluate("window.copied = undefined")
    page.get_by_role("button", name=f"Copy “Uniform negatives” as {format_}").first.click()
    page.wait_for_function("window.copied !== undefined")
    return page.evaluate("window.copied")


def test_tables_are_copied_as_markdown(open_report, run):
    cell = run["metrics"]["mllm_msr"]["uniform"]["auc"]
    head, rule, first, *_ = copied(open_report(), "Markdown").splitlines()
    assert head == "| Model | AUC | HR@5 | MRR@5 | NDCG@5 | Ties |"
    assert rule == "| --- | ---: | ---: | ---: | ---: | ---: |"
    interval = f"{cell['low']:.3f} – {cell['high']:.3f}"
    assert first.startswith(f"| MLLM-MSR | **{cell['mean']:.3f} ({interval})** |")


def test_tables_are_copied_as_latex(open_report):
    text = copied(open_report(), "LaTeX")
    assert "\\begin{tabular}{lrrrrr}" in text
    assert "Model & AUC & HR@5 & MRR@5 & NDCG@5 & Ties \\\\\n\\midrule" in text
    assert re.search(r"MLLM-MSR & \\textbf\{[\d.]+ \([\d.]+ -- [\d.]+\)\}", text)
    assert re.search(r"(?<!\\)%", text.split("\n", 1)[1]) is None


def test_tables_are_copied_as_csv_with_all_digits(open_report, run):
    rows = list(csv.DictReader(io.StringIO(copied(open_report(), "CSV"))))
    assert [row["Model"] for row in rows] == ["MLLM-MSR", "Popularity", "Random order"]
    cell = run["metrics"]["mllm_msr"]["uniform"]["auc"]
    found = [float(rows[0][name]) for name in ("AUC", "AUC low", "AUC high")]
    assert found == [cell["mean"], cell["low"], cell["high"]]
    assert rows[2]["AUC low"] == ""


def test_the_command_is_copied(open_report, run):
    page = open_report()
    page.get_by_role("button", name="Copy command").click()
    page.wait_for_function("window.copied !== undefined")
    assert page.evaluate("window.copied") == run["provenance"].command


def test_without_a_clipboard_the_text_is_shown(open_report):
    page = open_report()
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }"
    )
    page.get_by_role("button", name="Copy command").click()
    area = page.locator("#status textarea")
    area.wait_for()
    assert area.input_value().startswith("mllm-msr run")
    area.press("Escape")
    assert page.locator("#status").inner_text() == ""


@pytest.mark.parametrize("viewport", [PHONE, SMALL_PHONE], ids=["390", "320"])
def test_phones_do_not_scroll_sideways(open_report, viewport):
    page = open_report(viewport)
    page.evaluate(SHOW_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_the_contents_are_beside_the_text_or_closed_above_it(open_report):
    assert open_report(WIDE).get_by_role("link", name="Results", exact=True).is_visible()
    phone = open_report(PHONE)
    link = phone.get_by_role("link", name="Results", exact=True)
    assert not link.is_visible()
    phone.locator(".contents summary").press("Enter")
    link.click()
    assert phone.evaluate("location.hash") == "#results"
    assert not link.is_visible()


def test_the_keyboard_only_stops_at_boxes_that_scroll(open_report):
    stops = "document.querySelectorAll('.wide[tabindex]').length"
    wide, phone = open_report(WIDE), open_report(PHONE)
    phone.wait_for_function(f"{stops} > 0")
    assert wide.evaluate(stops) < phone.evaluate(stops)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_has_light_colors_all_panels_and_few_pages(open_report, scheme):
    page = open_report(WIDE, color_scheme=scheme)
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) <= 10
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".case-study:visible").count() == 3
    assert not page.get_by_role("button", name="Copy command").is_visible()


def test_many_models_take_few_pages_too(browser, tmp_path):
    files = write_report(tmp_path, **report_runs.make_run(tmp_path, n_more=15))
    page = browser.new_page(viewport=WIDE)
    page.goto(files.html.as_uri())
    assert page.locator(".verdict li").first.inner_text().count("of 17 models") == 1
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) <= 10
    page.emulate_media(media="print")
    # One metric is enough on paper, and the page says so.
    shown = page.locator("[data-panel=matrix]:visible, [data-panel=slices]:visible")
    metrics = shown.evaluate_all("all => all.map((panel) => panel.dataset.metric)")
    assert set(metrics) == {"auc"}
    assert page.get_by_text("On paper, only AUC is shown.").first.is_visible()
    page.close()


def test_printing_opens_the_parts_that_belong_on_paper_and_closes_them_again(open_report):
    page = open_report()
    opened = "JSON.stringify([...document.querySelectorAll('details')].map((part) => part.open))"
    before = json.loads(page.evaluate(opened))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#caveats li").first.is_visible()
    assert sum(json.loads(page.evaluate(opened))) > sum(before)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert json.loads(page.evaluate(opened)) == before


def test_without_scripts_everything_is_shown(open_report):
    page = open_report(java_script_enabled=False)
    assert page.locator(".case-study:visible").count() == 3
    assert not page.locator(".panel-controls").first.is_visible()
    assert page.locator(".copy").count() == 0

"""The documentation site: it builds without a warning, is complete, and needs no other server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mllm_msr
from mllm_msr.config.reference import reference

ROOT = Path(__file__).parents[2]


class Elements(HTMLParser):
    """Parser that collects the ids of a page, and the addresses that a browser loads with it."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if tag == "link" and values.get("rel") in {"canonical", "prev", "next"}:
            return
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src"}.get(tag)
        if name and values.get(name):
            self.loaded.append(values[name] or "")


def elements(page: Path) -> Elements:
    """Return the elements of a built page."""
    found = Elements()
    found.feed(page.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a broken link, an absent anchor or a page without a place is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for address in elements(page).loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            path = address.partition("?")[0]  # that of the page 404.html begins at the root
            assert (site / path[1:] if path[0] == "/" else page.parent / path).exists(), address
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:", style.read_text(encoding="utf-8"))


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = elements(site / "api.html").ids
    public = set(mllm_msr.__all__) - {"__version__", "MllmMsrError"}  # the error has a module
    assert {f"mllm_msr.{name}" for name in public} <= ids
    assert "mllm_msr.errors.MllmMsrError" in ids


def test_every_setting_has_an_anchor(site: Path) -> None:
    assert {setting.key for setting in reference()} <= elements(site / "settings.html").ids


def test_types_with_alternatives_are_shown_without_backslashes(site: Path) -> None:
    page = (site / "settings.html").read_text(encoding="utf-8")
    assert "<code>lora | full | frozen-lower-layers</code>" in page
    assert "\\|" not in page


def test_links_lead_from_the_readme_and_the_examples_into_the_site(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorials/demo.html"' in home
    assert 'href="contributing.html"' in home
    notebook = (site / "tutorials" / "notebook.html").read_text(encoding="utf-8")
    assert 'href="../examples.html#demo_touripynb"' in notebook
    assert {"own_csvpy", "demo_touripynb", "last_seenpy"} <= elements(site / "examples.html").ids


def test_the_search_finds_pages_and_settings(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = " ".join(entry["text"] for entry in index["docs"])
    assert "train.rank" in texts
    assert any(entry["title"] == "Evaluation protocol" for entry in index["docs"])

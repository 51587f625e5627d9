"""Hooks of the documentation site (`mkdocs.yml`): pages from outside `docs/`, and links to them.

Files link to each other as on GitHub, by their paths in the repository; the hooks translate these
links for the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]

# Pages of the site that are elsewhere in the repository.
PAGES: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "examples/README.md": "examples.md",
}
# Icon of the page of the service.
_ICON: Final = ROOT / "src" / "mllm_msr" / "serving" / "page" / "icon.svg"
_SOURCES: Final = {uri: source for source, uri in PAGES.items()}

_LINK: Final = re.compile(r"\]\(([^()\s:#]+)(#[^()\s]*)?\)")
# A code span with an escaped "|": GitHub needs the backslash in tables, Python-Markdown shows it.
_PIPE: Final = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
_BLOCK: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are elsewhere in the repository."""
    for source, uri in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if uri == "examples.md":
            text += "".join(map(_example, sorted((ROOT / "examples").rglob("*"))))
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "icon.svg", abs_src_path=str(_ICON)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Translate a page for the site, outside of code blocks."""
    del config, files
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it has one page only
    folder = posixpath.dirname(_SOURCES.get(uri, f"docs/{uri}"))

    def translate(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        found, anchor = _place(target, link[2] or "")
        return f"]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{anchor})"

    def convert(text: str) -> str:
        return _LINK.sub(translate, _PIPE.sub(lambda code: code[0].replace(r"\|", "|"), text))

    parts = _BLOCK.split(markdown)
    return "".join(one if one.startswith("```") else convert(one) for one in parts)


def _place(target: str, anchor: str) -> tuple[str, str]:
    """Return the page of the site and the anchor for a path in the repository."""
    if target in PAGES:
        return PAGES[target], anchor
    if target.startswith("examples/"):
        return PAGES["examples/README.md"], "#" + posixpath.basename(target).replace(".", "")
    return target.removeprefix("docs/"), anchor


def _example(path: Path) -> str:
    """Return a section with the code of a script or notebook; empty for other files."""
    if path.suffix == ".py" and path.stem != "__init__":
        body = f"```python\n{path.read_text(encoding='utf-8')}```\n"
    elif path.name == "pyproject.toml":
        body = f"```toml\n{path.read_text(encoding='utf-8')}```\n"
    elif path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        body = "\n".join(_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells)
    else:
        return ""
    return f"\n## {path.name}\n\n{body}\n"


def _cell(kind: str, source: str) -> str:
    """Return a cell of a notebook as Markdown; its headings are below that of the notebook."""
    if kind == "code":
        return f"```python\n{source}\n```\n"
    return re.sub(r"^(#+) ", r"##\1 ", source, flags=re.MULTILINE) + "\n"

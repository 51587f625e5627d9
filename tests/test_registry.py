"""Registry: names come from files and entry points, and unknown names get a suggestion."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType

import pytest

from mllm_msr import registry
from mllm_msr.baselines.popularity import Popularity
from mllm_msr.errors import UnknownNameError
from mllm_msr.interfaces import Recommender

KINDS: tuple[registry.Kind, ...] = ("datasets", "backends", "baselines", "metrics")


def test_a_name_resolves_to_the_class_in_the_file_of_that_name() -> None:
    assert "popularity" in registry.names("baselines")
    found = registry.find("baselines", "popularity")
    assert issubclass(found, Recommender)
    assert found.__module__ == "mllm_msr.baselines.popularity"


def test_datasets_backends_and_baselines_are_found_by_kind() -> None:
    assert registry.find_dataset("demo") is registry.find("datasets", "demo")
    assert registry.find_backend("mock") is registry.find("backends", "mock")
    assert registry.find_baseline("popularity") is Popularity


@pytest.mark.parametrize("kind", KINDS)
def test_modules_with_an_underscore_are_not_listed(kind: registry.Kind) -> None:
    assert not [name for name in registry.names(kind) if name.startswith("_")]


@pytest.mark.parametrize(
    ("kind", "label"), list(zip(KINDS, ("dataset", "backend", "baseline", "metric"), strict=True))
)
def test_an_unknown_name_lists_all_names(kind: registry.Kind, label: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry.find(kind, "zzz")
    names = ", ".join(registry.names(kind))
    assert str(caught.value) == f"Unknown {label} 'zzz'. Available: {names}."


def test_a_misspelled_name_gets_a_suggestion() -> None:
    message = r"Unknown baseline 'popularty'\. Did you mean 'popularity'\? Available: .*sasrec"
    with pytest.raises(UnknownNameError, match=message):
        registry.find("baselines", "popularty")


def test_an_entry_point_of_another_package_is_listed_and_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("outside", "mllm_msr.baselines.popularity:Popularity", "mllm_msr.baselines")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == point.group else []
    )
    assert "outside" in registry.names("baselines")
    assert "outside" not in registry.names("datasets")
    assert registry.find("baselines", "outside") is Popularity
    doc = Popularity.__doc__ or ""
    assert registry.describe("baselines", "outside") == doc.splitlines()[0]


def test_packages_are_scanned_once_and_again_after_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[str] = []

    def scan(group: str) -> EntryPoints:
        scans.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(registry, "entry_points", scan)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(3):
        assert registry.find("baselines", "popularity") is Popularity
    assert scans == ["mllm_msr.baselines"]
    package = tmp_path / "outside-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    target = "mllm_msr.baselines.popularity:Popularity"
    (package / "entry_points.txt").write_text(f"[mllm_msr.baselines]\noutside = {target}\n")
    assert registry.find("baselines", "outside") is Popularity
    assert len(scans) == 2


def test_a_module_without_exactly_one_class_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mllm_msr.baselines.empty")
    monkeypatch.setattr(registry, "names", lambda kind: ["empty"])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(TypeError, match=r"exactly one subclass of Recommender, but it defines 0"):
        registry.find("baselines", "empty")


def test_listing_names_loads_no_model_library() -> None:
    code = (
        "import sys, mllm_msr; from mllm_msr import registry;"
        "[registry.names(k) for k in ('datasets', 'backends', 'baselines', 'metrics')];"
        "heavy = {'torch', 'transformers', 'lightning', 'peft'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_is_described_in_one_line(kind: registry.Kind) -> None:
    for name in registry.names(kind):
        assert 15 < len(registry.describe(kind, name)) <= 100
        assert registry.describe(kind, name).endswith(".")


def test_descriptions_import_no_built_in_plugin() -> None:
    code = (
        "import sys\n"
        "from mllm_msr import registry\n"
        "assert registry.describe('baselines', 'sasrec').startswith('SASRec: ')\n"
        "sys.exit('mllm_msr.baselines.sasrec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

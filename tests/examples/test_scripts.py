"""The scripts in `examples/`, executed on small data."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from PIL import Image

from mllm_msr import registry
from mllm_msr.errors import BackendError, DamagedFileError
from mllm_msr.evaluation import metrics
from mllm_msr.evaluation.ranked_lists import RankedLists
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.serving.server import make_app
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from page_browser import listening

EXAMPLES = Path(__file__).parents[2] / "examples"
PLUGINS = EXAMPLES / "plugins"

Run = Callable[..., str]


def load(path: Path) -> ModuleType:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a script in an empty folder and returns what it prints."""

    def start(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return start


@pytest.fixture
def demo(demo_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the small demo, which scripts may change."""
    return Path(shutil.copytree(demo_run, tmp_path / "demo"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small shop."""
    folder = tmp_path_factory.mktemp("shop")
    written: Path = load(EXAMPLES / "write_shop.py").write_shop(folder, n_users=40, n_books=40)
    return written


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the plugins importable, with the entry points of their `pyproject.toml`."""
    project = tomllib.loads((PLUGINS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / "site" / "shop_plugins-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(metadata.parent)
    monkeypatch.syspath_prepend(PLUGINS)
    # A process looks for metrics once.
    metrics._classes.cache_clear()
    yield
    metrics._classes.cache_clear()


def test_the_shop_depends_on_the_seed_only(run: Run, tmp_path: Path) -> None:
    assert "Wrote one" in run("write_shop.py", "one")
    run("write_shop.py", "two")
    for name in ("items.csv", "interactions.csv", "images/b000.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    items = pl.read_csv(tmp_path / "one" / "items.csv")
    assert items["title"].n_unique() == items.height == 60
    interactions = pl.read_csv(tmp_path / "one" / "interactions.csv")
    assert not interactions.select("user_id", "item_id").is_duplicated().any()
    times = interactions.group_by("user_id", maintain_order=True).agg(pl.col("timestamp").diff())
    assert times["timestamp"].explode().drop_nulls().min() > 0


def test_own_csv(run: Run, shop: Path) -> None:
    printed = run("own_csv.py", "--data", shop, "--backend", "demo", "--targets", 8)
    assert "Item-kNN" in printed
    assert "MLLM-MSR" in printed
    assert "report.html" in printed
    assert "The " in printed.split("report.html")[1]  # titles of the list


@pytest.mark.usefixtures("plugins")
def test_own_backend(run: Run, shop: Path, tmp_path: Path) -> None:
    printed = run("own_backend.py", "--data", shop)
    assert printed.startswith("Backend that repeats frequent words")
    preferences = pl.read_parquet(tmp_path / "runs/words/preferences.parquet")
    opening = "The user appears to have a preference for "
    assert preferences["preference"].str.starts_with(opening).all()
    assert set(preferences["flags"]) == {""}
    # At most the six words of `model.n_words` after the opening.
    words = preferences["preference"].str.strip_prefix(opening).str.split(" ").list.len()
    assert words.max() == 6
    assert "Zero-shot" in printed


@pytest.mark.usefixtures("plugins")
def test_the_own_backend_follows_the_contract(tmp_path: Path) -> None:
    backend = registry.find("backends", "words")(n_words=3)

    def prompt(text: str, *images: Path) -> Prompt:
        parts = (TextPart(text), *map(ImagePart, images))
        return Prompt((Message("user", parts),))

    Image.new("RGB", (4, 4), "#2a6f97").save(tmp_path / "cover.png")
    asked = [prompt('"calm sea" and "the calm harbor"'), prompt("", tmp_path / "cover.png")]
    answers = dict(backend.generate(asked))
    assert answers[0].text == "calm sea harbor"
    assert answers[1].text == "blue"
    likes = [prompt(f'likes "calm sea", the title: "{title}"') for title in ("The Sea", "Bread")]
    (_, near), (_, far) = backend.score(likes, ["yes", "no"])
    assert near.log_probs[0] > far.log_probs[0]
    backend.close()
    with pytest.raises(BackendError, match=r"The backend is closed\."):
        list(backend.generate(asked))


@pytest.mark.usefixtures("plugins")
def test_own_baseline_and_metric(run: Run, demo: Path) -> None:
    printed = run("own_baseline_and_metric.py", "--run", demo)
    rows = [line.split() for line in printed.splitlines() if line.startswith("relative_rank")]
    assert {row[1] for row in rows} == {"Last", "Item-kNN", "Popularity"}
    assert all(0 < float(row[-1]) < 1 for row in rows)


@pytest.mark.usefixtures("plugins")
def test_the_baseline_counts_pairs_and_can_be_loaded(tmp_path: Path) -> None:
    kind = registry.find("baselines", "last_seen")
    rows = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0), ("v", "b", 1), ("w", "c", 0)]
    interactions = pl.DataFrame(rows, ["user_id", "item_id", "position"], orient="row")
    candidates = pl.DataFrame({"user_id": ["x", "x"], "position": [1, 1], "item_id": ["c", "b"]})
    history = pl.DataFrame({"user_id": ["x"], "item_id": ["a"], "position": [0]})
    data = TrainingData(interactions, pl.DataFrame(), pl.DataFrame(), frozenset("uvw"))
    model = kind().fit(data)
    assert isinstance(model, Recommender)
    assert model.score(candidates, history)["score"].to_list() == [0.0, 2.0]
    model.save(tmp_path)
    assert kind.load(tmp_path).score(candidates, history)["score"].to_list() == [0.0, 2.0]
    with pytest.raises(DamagedFileError, match=r"pairs\.parquet"):
        kind.load(tmp_path / "absent")


@pytest.mark.usefixtures("plugins")
def test_the_metric_counts_ties_by_their_expected_value() -> None:
    metric = registry.find("metrics", "relative_rank")()
    assert isinstance(metric, metrics.Metric)
    rows = [(0, 1, 0.5), (0, 0, 0.9), (0, 0, 0.1), (0, 0, 0.2)]  # rank 2 of 4
    rows += [(1, 1, 0.5), (1, 0, 0.5), (1, 0, 0.5), (1, 0, 0.5)]  # ranks 1 to 4 are equally likely
    _, lists = RankedLists.from_scores(pl.DataFrame(rows, ["list", "label", "score"], orient="row"))
    assert metric.compute(lists).tolist() == [0.5, 0.625]


def test_batch_recommendations(run: Run, demo: Path, tmp_path: Path) -> None:
    arguments = ("--run", demo, "-k", 3, "--budget", 4, "--chunk", 2, "--users", 5)
    assert "3 items for each of 5 users" in run("batch_recommendations.py", *arguments)
    table = pl.read_parquet(tmp_path / "recommendations.parquet")
    assert table["user_id"].n_unique() == 5
    assert table.group_by("user_id").agg(pl.col("rank").sort())["rank"].to_list() == [[1, 2, 3]] * 5


def test_service_client(run: Run, demo: Path) -> None:
    app = make_app(demo, overrides=["retrieve.budget=4"], environment={})
    with listening(app) as url:
        printed = run("service_client.py", "--url", url, "--user", "u0001")
    first, *items, accepted, preference, after, removed = printed.splitlines()
    opening = "The user appears to have a preference for"
    assert first.startswith(opening)
    assert preference.startswith(opening)
    assert len(items) == 5
    assert "'accepted'" in accepted
    chosen = items[-1].split()[1]
    assert chosen not in after
    assert "removed" in removed


def test_external_scores(run: Run, demo: Path) -> None:
    printed = run("external_scores.py", "--run", demo)
    for model in ("recent_popularity", "mllm_msr"):
        for kind in ("uniform", "popularity"):
            assert any(line.split()[:2] == [model, kind] for line in printed.splitlines())
    assert printed.count("p = ") == 2


def test_lora(run: Run, shop: Path, tmp_path: Path, tiny_checkpoint) -> None:
    checkpoint = tiny_checkpoint("smolvlm")
    arguments = ("--data", shop, "--checkpoint", checkpoint, "--steps", 2, "--rank", 2)
    printed = run("lora.py", *arguments, "--batch", 2)
    assert "adapter: rank 2, 28 matrices" in printed
    assert '"steps": 2' in printed
    assert (tmp_path / "runs/lora/adapter/adapter_model.safetensors").is_file()


def test_every_script_is_tested_and_listed() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.name}"' in source
        assert f"({path.name})" in listed

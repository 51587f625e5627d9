"""Runs without a model: a mock backend that counts prompts, and fake fine-tuning."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

import worlds
from mllm_msr.backends import mock
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings
from mllm_msr.ranker.prompt_record import write_prompt_record
from mllm_msr.ranker.recommender import MllmRecommender


def overrides(data: Path, *more: str) -> list[str]:
    """Return the settings of a small run on the dataset of `world`, as overrides."""
    few = [
        "data.folds=2",
        "data.validation_fraction=0.4",
        "data.negatives=[uniform]",
        "data.n_negatives=5",
        "evaluate.n_resamples=20",
    ]
    return worlds.settings(data, *few, *more)


def load(data: Path, *more: str) -> Settings:
    """Return the settings of `overrides` as an object."""
    return load_settings("default", overrides(data, *more), environment={})


def world(folder: Path) -> Path:
    """Write the files of a small dataset."""
    return worlds.write_files(folder, n_users=8, n_items=16)


class PromptCounter:
    """Counter of the prompts of a mock backend.

    Attributes:
        counts: Number of prompts by kind.
        stop_at: Number of prompts after which the process is interrupted.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"generate": 0, "score": 0, "image": 0}
        self.stop_at: int | None = None

    def count(self, kind: str) -> None:
        self.counts[kind] += 1
        if self.stop_at is not None and sum(self.counts.values()) >= self.stop_at:
            raise KeyboardInterrupt


def install(monkeypatch: pytest.MonkeyPatch) -> PromptCounter:
    """Let the mock backend derive answers and scores from hashes of prompts; fake fine-tuning.

    The fake fine-tuning writes a file that the scores depend on.
    """
    counted = PromptCounter()
    kind = mock.MockBackend
    begin = kind.__init__

    def init(self, answers=("",), *, adapter: Path | None = None, **more) -> None:
        begin(self, answers, **more)
        self._weights = (Path(adapter) / "weights").read_text() if adapter else ""
        self._fingerprint = f"mock {self._weights}"

    def answer(self, prompt) -> str:
        text = prompt.text
        counted.count("image" if prompt.images else "generate")
        number = zlib.crc32(text.encode()) % 1000
        return f"The user appears to have a preference for things like {number}."

    def probabilities(self, prompt, n_choices) -> tuple[float, float]:
        counted.count("score")
        drawn = zlib.crc32((self._weights + prompt.text).encode()) % 997 / 1000
        return (drawn + 0.001, 0.999 - drawn)

    def fine_tune(self, data) -> Path:
        folder = self._output / "adapter"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(f"seed {self._training.seed}")
        write_prompt_record(folder, self._prompt)
        return folder

    monkeypatch.setattr(kind, "__init__", init)
    monkeypatch.setattr(kind, "_answer", answer)
    monkeypatch.setattr(kind, "_probabilities", probabilities)
    monkeypatch.setattr(MllmRecommender, "_fine_tune", fine_tune)
    monkeypatch.setattr(
        kind,
        "with_adapter",
        classmethod(
            lambda cls, model_kwargs, adapter, method: {**model_kwargs, "adapter": adapter}
        ),
    )
    return counted

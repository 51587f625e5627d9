"""A finished run with a scripted model, and backends that misbehave on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import final

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.types import ChoiceScores, Completion, Prompt


def make_run(folder: Path) -> Path:
    """A run folder that has been prepared, summarised and inferred, without fine-tuning."""
    data = worlds.write_files(folder / "data", n_users=12, n_items=30)
    settings = load_settings(
        "default",
        worlds.settings(data, "retrieve.collaborative=popularity", "retrieve.order=model"),
        environment={},
    )
    with Pipeline.open(folder / "run", settings) as pipeline:
        for name in ("prepare", "summarize", "infer"):
            pipeline.run_stage(name)
    return folder / "run"


@final
class MoodyBackend(Backend):
    """Likes items by the number in their title; can fail, and hangs while its gate is shut.

    Attributes:
        fails: Whether it fails as a whole.
        spoils: Says of the text of a prompt whether its answer is noise.
        gate: Shut, it hangs.
    """

    def __init__(self) -> None:
        self.fails = False
        self.spoils: Callable[[str], bool] = lambda _: False
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.closed = False

    @property
    def fingerprint(self) -> str:
        return "moody"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, prompt in enumerate(self._taken(prompts)):
            noise = self.spoils(_text(prompt))
            words = (
                "#?! " * 9 if noise else f"The user appears to have a preference for mood {index}."
            )
            yield index, Completion(words)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(self._taken(prompts)):
            text = _text(prompt)
            number = int(text.rpartition("Thing ")[2].split('"')[0]) if "Thing " in text else 0
            if number == 13:
                yield index, ChoiceScores((), error="thirteen is refused")
            else:
                yield index, ChoiceScores((-0.01 * (40 - number), -1.0))

    def close(self) -> None:
        self.closed = True

    def _taken(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        taken = list(prompts)
        self.batches.append(len(taken))
        self.threads.add(threading.current_thread().name)
        self.gate.wait(60)
        if self.fails:
            raise BackendError(needed="mood", received="none", remedy="wait")
        return taken


def _text(prompt: Prompt) -> str:
    return "".join(getattr(part, "text", "") for turn in prompt.messages for part in turn.parts)

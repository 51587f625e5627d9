"""The same checkpoints, prompts and adapters here and behind vLLM's server: `make test-vllm`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from benchmarks._jobs import CANDIDATES, NOUN, Work
from benchmarks._plain import batched
from benchmarks._vllm import READY, Server, serving
from benchmarks._vllm_checkpoint import readable

from benchmarks import _shapes
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend
from mllm_msr.models.loading import load_model
from mllm_msr.ranker.training.lora import add_lora, save_weights
from mllm_msr.summarization.items import summarize
from mllm_msr.summarization.preferences import infer_preferences
from mllm_msr.types import ChoiceScores, Message, Prompt, TextPart

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (READY.is_file() and os.environ.get("MLLM_MSR_TEST_VLLM")),
        reason="vLLM's server is tested by: make test-vllm",
    ),
]
CHOICES = ("yes", "no")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.make(tmp_path_factory.mktemp("covers"), CANDIDATES)


@pytest.fixture(scope="module")
def checkpoint(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT."""
    folder = tmp_path_factory.mktemp("next") / "checkpoint"
    _shapes.checkpoint("tiny", folder, device="cpu", dtype="float32", texts=work.texts())
    return folder


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as fine-tuning saves it, with matrices that change what the model says."""
    loaded = load_model(str(checkpoint), dtype="float32", device="cpu")
    model = add_lora(loaded.model, rank=8, alpha=16, dropout=0.0)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=chance)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    save_weights(model, loaded.processor, folder, method="lora", step=1)
    return folder


@pytest.fixture(scope="module")
def server(
    checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = readable(checkpoint, tmp_path_factory.mktemp("served") / "checkpoint")
    with serving(folder, threads=1, adapters={"tuned": adapter}) as running:
        yield running


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The packaged model, whose heads vLLM does not know as they are."""
    folder = readable(weights_folder(), tmp_path_factory.mktemp("served") / "checkpoint")
    with serving(folder, threads=1) as running:
        yield running


def scored(backend: Backend, prompts: Sequence[Prompt]) -> list[ChoiceScores]:
    with closing(backend):
        responses = dict(backend.score(prompts, CHOICES))
    return [responses[index] for index in range(len(prompts))]


def difference(ours: Sequence[ChoiceScores], theirs: Sequence[ChoiceScores]) -> float:
    assert [response.error for response in (*ours, *theirs)] == [None] * 2 * len(ours)
    return max(
        abs(a - b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.log_probs, other.log_probs, strict=True)
    )


def rankings(responses: Sequence[ChoiceScores]) -> list[list[int]]:
    """Each user's candidates, the most probable first."""
    margins = [response.log_probs[1] - response.log_probs[0] for response in responses]
    return [
        sorted(range(CANDIDATES), key=user.__getitem__) for user in batched(margins, CANDIDATES)
    ]


def test_first_tokens_have_the_same_probabilities(
    work: Work, checkpoint: Path, adapter: Path, server: Server
) -> None:
    prompts = [example.prompt for example in work.candidate_lists(3)]

    def here(folder: Path | None) -> list[ChoiceScores]:
        backend = HuggingFaceBackend(
            str(checkpoint), adapter=folder, dtype="float32", device="cpu", threads=1
        )
        return scored(backend, prompts)

    roads: list[tuple[list[ChoiceScores], OpenAIBackend]] = [
        (here(None), server.backend(clients=16)),
        # Listed when the server was started, and loaded on demand out of its folder.
        (here(adapter), server.backend(clients=16, adapter="tuned")),
        (here(adapter), server.backend(clients=16, adapter=adapter)),
    ]
    for ours, backend in roads:
        theirs = scored(backend, prompts)
        assert difference(ours, theirs) < 1e-3
        assert rankings(ours) == rankings(theirs)
        assert [one.prompt_tokens for one in ours] == [one.prompt_tokens for one in theirs]
    assert difference(roads[0][0], roads[1][0]) > 0.1


def test_the_packaged_model_scores_and_writes_the_same(work: Work, packaged: Server) -> None:
    prompts = [example.prompt for example in work.candidate_lists(3)]
    here = HuggingFaceBackend(str(weights_folder()), dtype="float32", device="cpu", threads=1)
    with closing(here), closing(packaged.backend(clients=16)) as there:
        assert there.capabilities == here.capabilities
        ours, theirs = (
            [responses[index] for index in range(len(prompts))]
            for responses in (dict(way.score(prompts, CHOICES)) for way in (here, there))
        )
        assert difference(ours, theirs) < 1e-3
        assert rankings(ours) == rankings(theirs)
        summaries, theirs_too = (
            summarize(work.items, way, item_type=NOUN) for way in (here, there)
        )
        assert theirs_too.equals(summaries)
        preference_histories = [
            infer_preferences(work.histories(4), summaries, way, item_type=NOUN)
            for way in (here, there)
        ]
        assert preference_histories[0].equals(preference_histories[1])
        assert not any("failed" in flags for flags in summaries["flags"])


def test_what_it_has_forgotten_it_reads_again_and_answers_alike(
    work: Work, packaged: Server
) -> None:
    prompts = [example.prompt for example in work.candidate_lists(1)]
    with closing(packaged.backend(clients=16)) as backend:
        responses = []
        for _ in range(2):
            packaged.forget()
            responses.append(
                [dict(backend.score(prompts, CHOICES))[i] for i in range(len(prompts))]
            )
    assert difference(*responses) < 1e-4


def test_a_prompt_beyond_the_context_is_shortened(packaged: Server) -> None:
    long = TextPart("calm boats " * 900, trimmable=1)
    prompt = Prompt((Message("user", (long, TextPart("Answer only yes or no."))),), 4)
    with closing(packaged.backend(clients=1)) as backend:
        ((_, response),) = backend.generate([prompt])
    assert response.error is None
    assert 1000 < response.prompt_tokens < 2048


def test_a_model_that_it_does_not_serve_is_said(packaged: Server) -> None:
    other = OpenAIBackend("other", url=f"{packaged.root}/v1", images=False, scoring="token_ids")
    prompt = Prompt((Message("user", (TextPart("Yes or no?"),)),), 1)
    with closing(other), pytest.raises(BackendError, match="needed the model 'other'"):
        list(other.generate([prompt]))

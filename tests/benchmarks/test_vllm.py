"""vLLM's server and our backends give equal results; run with `make test-vllm`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks._checkpoints import make_checkpoint
from benchmarks._transformers_model import batched
from benchmarks._vllm import MODEL, READY, Server, serve
from benchmarks._vllm_checkpoint import convert_checkpoint
from benchmarks._workload import ITEM_TYPE, N_CANDIDATES, Workload
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
        reason="vLLM's server is only tested with: make test-vllm",
    ),
]
CHOICES = ("yes", "no")


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return Workload.make(tmp_path_factory.mktemp("covers"), N_CANDIDATES)


@pytest.fixture(scope="module")
def checkpoint(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LLaVA-NeXT checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("next") / "checkpoint"
    make_checkpoint("tiny", folder, device="cpu", dtype="float32", texts=workload.texts())
    return folder


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter in the format of fine-tuning, with random matrices."""
    loaded = load_model(str(checkpoint), dtype="float32", device="cpu")
    model = add_lora(loaded.model, rank=8, alpha=16, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=generator)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    save_weights(model, loaded.processor, folder, method="lora", step=1)
    return folder


@pytest.fixture(scope="module")
def server(
    checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = convert_checkpoint(checkpoint, tmp_path_factory.mktemp("served") / "checkpoint")
    with serve(folder, threads=1, adapters={"tuned": adapter}) as server:
        yield server


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the demo model, whose head size vLLM does not support without padding."""
    folder = convert_checkpoint(weights_folder(), tmp_path_factory.mktemp("served") / "checkpoint")
    with serve(folder, threads=1) as server:
        yield server


def score(backend: Backend, prompts: Sequence[Prompt]) -> list[ChoiceScores]:
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
    """Return the candidates of each user, ordered by decreasing probability of yes."""
    margins = [response.log_probs[1] - response.log_probs[0] for response in responses]
    return [
        sorted(range(N_CANDIDATES), key=user.__getitem__) for user in batched(margins, N_CANDIDATES)
    ]


def test_scores_are_equal_with_and_without_an_adapter(
    workload: Workload, checkpoint: Path, adapter: Path, server: Server
) -> None:
    prompts = [example.prompt for example in workload.candidate_lists(3)]

    def local_scores(folder: Path | None) -> list[ChoiceScores]:
        backend = HuggingFaceBackend(
            str(checkpoint), adapter=folder, dtype="float32", device="cpu", threads=1
        )
        return score(backend, prompts)

    pairs: list[tuple[list[ChoiceScores], OpenAIBackend]] = [
        (local_scores(None), server.backend(clients=16)),
        # An adapter that the server loads at its start, and one that it loads on demand.
        (local_scores(adapter), server.backend(clients=16, adapter="tuned")),
        (local_scores(adapter), server.backend(clients=16, adapter=adapter)),
    ]
    for ours, backend in pairs:
        theirs = score(backend, prompts)
        assert difference(ours, theirs) < 1e-3
        assert rankings(ours) == rankings(theirs)
        assert [one.prompt_tokens for one in ours] == [one.prompt_tokens for one in theirs]
    assert difference(pairs[0][0], pairs[1][0]) > 0.1


def test_scores_and_texts_of_the_packaged_model_are_equal(
    workload: Workload, packaged: Server
) -> None:
    prompts = [example.prompt for example in workload.candidate_lists(3)]
    local = HuggingFaceBackend(str(weights_folder()), dtype="float32", device="cpu", threads=1)
    with closing(local), closing(packaged.backend(clients=16)) as remote:
        found = remote.capabilities
        assert found.scoring == "exact, by logprob_token_ids"
        assert replace(found, scoring="") == local.capabilities
        ours, theirs = (
            [responses[index] for index in range(len(prompts))]
            for responses in (dict(each.score(prompts, CHOICES)) for each in (local, remote))
        )
        assert difference(ours, theirs) < 1e-3
        assert rankings(ours) == rankings(theirs)
        summaries, their_summaries = (
            summarize(workload.items, each, item_type=ITEM_TYPE) for each in (local, remote)
        )
        assert their_summaries.equals(summaries)
        preferences = [
            infer_preferences(workload.histories(4), summaries, each, item_type=ITEM_TYPE)
            for each in (local, remote)
        ]
        assert preferences[0].equals(preferences[1])
        assert not any("failed" in flags for flags in summaries["flags"])


def test_the_scoring_route_gives_the_scores_of_local_prompts(packaged: Server) -> None:
    question = "Would this user watch a {} film about a lantern? Answer only yes or no."
    prompts = [
        Prompt((Message("user", (TextPart(question.format(word)),)),))
        for word in ("calm", "loud", "quiet", "strange")
    ]
    local = HuggingFaceBackend(str(weights_folder()), dtype="float32", device="cpu", threads=1)
    # Without this field, the route is the only exact method.
    without = {"logprob_token_ids": None}
    remote = OpenAIBackend(MODEL, url=f"{packaged.root}/v1", concurrency=4, extra=without)
    assert remote.capabilities.scoring.startswith("exact by /generative_scoring")
    ours, theirs = score(local, prompts), score(remote, prompts)
    assert difference(ours, theirs) < 1e-3
    assert [one.prompt_tokens for one in ours] == [one.prompt_tokens for one in theirs]
    assert not any(response.upper_bound for response in theirs)


def test_scores_are_equal_after_the_caches_are_reset(workload: Workload, packaged: Server) -> None:
    prompts = [example.prompt for example in workload.candidate_lists(1)]
    with closing(packaged.backend(clients=16)) as backend:
        responses = []
        for _ in range(2):
            packaged.reset_caches()
            responses.append(
                [dict(backend.score(prompts, CHOICES))[i] for i in range(len(prompts))]
            )
    assert difference(*responses) < 1e-4


def test_a_prompt_longer_than_the_context_is_truncated(packaged: Server) -> None:
    long = TextPart("calm boats " * 900, trimmable=1)
    prompt = Prompt((Message("user", (long, TextPart("Answer only yes or no."))),), 4)
    with closing(packaged.backend(clients=1)) as backend:
        ((_, response),) = backend.generate([prompt])
    assert response.error is None
    assert 1000 < response.prompt_tokens < 2048


def test_an_unknown_model_is_an_error(packaged: Server) -> None:
    other = OpenAIBackend("other", url=f"{packaged.root}/v1", images=False, scoring="token_ids")
    prompt = Prompt((Message("user", (TextPart("Yes or no?"),)),), 1)
    with closing(other), pytest.raises(BackendError, match="does not offer the model 'other'"):
        list(other.generate([prompt]))

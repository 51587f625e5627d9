"""Servers on loopback with the scoring routes of vLLM and SGLang, in front of an invented model.

Fields, defaults, limits and errors are those of the real servers. The model's log-probabilities are
a function of the token ids that it reads, so that a prompt rendered in another way gets others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from endpoints import HttpRequest, HttpResponse, logprobs_response

VOCABULARY = 100
YES, NO = 31, 32
_WORDS = {"yes": YES, "no": NO}


def log_probs(tokens: Sequence[int]) -> list[float]:
    """Return the log-probability of every token after a prompt.

    Both answers are probable after questions for yes or no, and improbable elsewhere.
    """
    seed = zlib.crc32(bytes(str(list(tokens)), "ascii"))
    logits = [((seed >> (token % 16)) % 97) / 50 for token in range(VOCABULARY)]
    bonus = 3.0 if YES in tokens or NO in tokens else -4.0
    logits[YES] += bonus
    logits[NO] += bonus
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def render(turns: Sequence[Mapping[str, Any]], *, opens_answer: bool = True) -> list[int]:
    """Return the token ids of turns: one for each word and role."""
    tokens = [1]
    for turn in turns:
        if turn["role"] == "assistant" and not opens_answer:
            tokens.append(3)
        else:
            tokens.append(2)
        tokens += [encode(word) for word in str(turn["content"]).split()]
    return [*tokens, 3] if opens_answer else tokens


def encode(word: str) -> int:
    """Return the token id of a word; those below 10 are special, and "w12" is 12."""
    word = word.strip(".,?")
    if word[1:].isdigit():
        return int(word[1:])
    return _WORDS.get(word, 40 + zlib.crc32(word.encode()) % (VOCABULARY - 40))


@dataclass
class ScoringServer:
    """Request handler with a scoring route.

    Attributes:
        kind: "vllm" or "sglang".
        logprob_token_ids: Whether chat requests accept the field; only for vLLM.
        route: Response of the scoring route instead of its scores, or None.
        max_model_len: Limit of tokens, prompt and answer.
        hidden_tokens: Tokens that chat requests read and `/tokenize` does not return.
        delimiter: Token that SGLang's scoring of several items inserts, or None.
        base_only: Whether the scoring route ignores the adapter that the request names.
        renders: Whether `/tokenize` accepts messages.
    """

    kind: str
    logprob_token_ids: bool = False
    route: HttpResponse | None = None
    max_model_len: int = 1000
    hidden_tokens: tuple[int, ...] = ()
    delimiter: int | None = None
    base_only: bool = False
    renders: bool = True

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path, body = request.path, request.body
        if path == "/v1/models":
            return HttpResponse({"data": [{"id": "tiny"}, {"id": "tuned"}]})
        if path == "/tokenize":
            return self._tokenize(body)
        if path == "/v1/chat/completions":
            return self._chat(body)
        if path == ("/generative_scoring" if self.kind == "vllm" else "/v1/score"):
            return self.route or self._score(body)
        return self._error("Not Found", 404)

    def _tokenize(self, body: Mapping[str, Any]) -> HttpResponse:
        if not self.renders:
            return self._error("Field required: prompt", 422)
        if body.get("continue_final_message") and body.get("add_generation_prompt"):
            return self._error("Cannot set both fields to True.")
        opens_answer = not body.get("continue_final_message")
        tokens = render(body["messages"], opens_answer=opens_answer)
        found: dict[str, Any] = {"tokens": tokens, "count": len(tokens)}
        # SGLang states the tokenizer's limit, which is often a placeholder.
        found["max_model_len"] = self.max_model_len if self.kind == "vllm" else 10**30
        return HttpResponse(found)

    def _chat(self, body: Mapping[str, Any]) -> HttpResponse:
        if not isinstance(body["messages"][-1]["content"], str):
            tokens = [1, 9, 9, 3]  # an image
        else:
            tokens = [*self.hidden_tokens, *render(body["messages"])]
        if len(tokens) >= self.max_model_len:
            return self._error(f"maximum context length is {self.max_model_len} tokens")
        values = self._model(body, tokens)
        ids = body.get("logprob_token_ids")
        if ids and self.logprob_token_ids:
            found = {f"token_id:{i}": values[i] for i in ids}
            return logprobs_response(found, n_prompt=len(tokens))
        best = sorted(range(VOCABULARY), key=lambda i: -values[i])[: body.get("top_logprobs") or 0]
        names = {YES: "yes", NO: "no"}
        listed = {names.get(i, f"w{i}"): values[i] for i in best or [5]}
        response = logprobs_response(listed, n_prompt=len(tokens))
        if not best:
            response.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = []  # type: ignore[index]
        return response

    def _model(self, body: Mapping[str, Any], tokens: Sequence[int]) -> list[float]:
        return log_probs([*tokens, 7] if body.get("model") == "tuned" else tokens)

    def _score(self, body: Mapping[str, Any]) -> HttpResponse:
        query, items, labels = body["query"], body["items"], body["label_token_ids"]
        assert not isinstance(query, str)
        if not items or not labels or not all(0 <= label < VOCABULARY for label in labels):
            return self._error("items and label_token_ids must be given and in the vocabulary")
        if self.base_only:
            body = {**body, "model": "tiny"}
        scores, n_read = [], 0
        for item in items:
            tokens = [*query, *item]
            if self.delimiter is not None:
                tokens = [*query, self.delimiter, *item, self.delimiter]
            if self.kind == "vllm":
                tokens = tokens[: self.max_model_len - 1]
            elif len(tokens) >= self.max_model_len:
                return self._error(f"The input is longer than {self.max_model_len} tokens")
            values = self._model(body, tokens)
            probabilities = [math.exp(values[label]) for label in labels]
            # The default differs between the servers.
            if body.get("apply_softmax", self.kind == "vllm"):
                probabilities = [p / sum(probabilities) for p in probabilities]
            scores.append(probabilities)
            n_read += len(tokens)
        usage = {"prompt_tokens": n_read, "total_tokens": n_read, "completion_tokens": 0}
        if self.kind == "sglang":
            found = {"scores": scores, "model": body["model"], "object": "scoring"}
            return HttpResponse({**found, "pooled_hidden_states": None, "usage": usage})
        data = [{"index": i, "object": "score", "score": row[0]} for i, row in enumerate(scores)]
        head = {"id": "generative-scoring-1", "object": "list", "created": 1}
        return HttpResponse({**head, "model": body["model"], "data": data, "usage": usage})

    def _error(self, message: str, status: int = 400) -> HttpResponse:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        if self.kind == "sglang" and status != 404:
            return HttpResponse({"object": "error", **error}, status=status)
        body = {"error": error} if self.kind == "vllm" else {"detail": message}
        return HttpResponse(body, status=status)

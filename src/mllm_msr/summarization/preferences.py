"""Stage "infer": a user's history, read block by block, becomes a written preference.

Paper, "Recurrent User Preference Inference": P_t = LLM(P_{t-1}, block_t), with P_1 from the first
block alone. All users advance abreast, and every P_t is kept: the preference_history explains the user. The
direct form (MLLM-MSR_R) reads the whole history in one prompt instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import polars as pl

from mllm_msr import tables
from mllm_msr.interfaces import Backend
from mllm_msr.prompts import templates
from mllm_msr.summarization import output_checks
from mllm_msr.summarization.output_checks import Answer
from mllm_msr.types import Prompt

logger = logging.getLogger(__name__)

Method = Literal["recurrent", "direct"]
Progress = Callable[[int], None]

OPENING: Final = "The user appears to have a preference for"

_TOKENS_PER_WORD: Final = 3


@dataclass(frozen=True, slots=True)
class _Step:
    """One prompt of one user: read `summaries`, given `previous`, and write preference_history row `block`."""

    user_id: str
    block: int
    n_items: int
    final: bool
    summaries: tuple[str, ...]
    previous: str | None


def infer_preferences(
    histories: pl.DataFrame,
    summaries: pl.DataFrame,
    backend: Backend,
    *,
    item_type: str = "item",
    method: Method = "recurrent",
    block_size: int = 3,
    max_items: int | None = None,
    words: int = 80,
    use_images: bool = True,
    every_block: bool = True,
    previous: pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Infer every user's preference.

    Args:
        histories: `tables.INTERACTIONS`, only what may be seen (no target); positions 0, 1, ...
        summaries: `tables.SUMMARIES`; items without a row are passed over with a warning.
        backend: Answers the prompts; needs no images.
        item_type: What an item is called in prompts (a key of `prompts.ITEM_TYPES`).
        method: "recurrent" (the paper's) or "direct" (MLLM-MSR_R).
        block_size: Items per block; the last block of a user may be shorter.
        max_items: Read only so many items of a history, the latest; whole blocks are left out,
            so that it may be up to `block_size` - 1 fewer.
        words: Length limit of a preference, in words.
        use_images: False reads text summaries alone (MLLM-MSR_T).
        every_block: For "direct": also infer at every earlier block's end (needed where earlier
            positions serve as training targets), not only for the whole history.
        previous: `tables.PREFERENCES` of an earlier call over shorter histories under the same
            settings. Its full blocks are taken over, so that a new interaction costs one prompt.
        progress: Called with the number of newly finished prompts.

    Returns:
        `tables.PREFERENCES`, sorted by user and block: the full preference_history of every user with a
        history.
    """
    texts = _texts(summaries, "summary" if use_images else "text_summary")
    users = _histories(histories)
    recurrent = method == "recurrent"
    rows = _taken_over(previous, users, block_size) if recurrent else []
    latest = {row.user_id: row for row in rows}
    plan = _StepPlan(
        users,
        texts,
        block_size,
        max_items=max_items,
        recurrent=recurrent,
        every_block=every_block,
    )
    while wave := list(plan.next_wave(latest)):
        for row in _advance(wave, backend, item_type, words, progress):
            rows.append(row)
            newest = latest.get(row.user_id)
            if newest is None or newest.n_items < row.n_items:
                latest[row.user_id] = row
    schema = dict(tables.PREFERENCES)
    return pl.DataFrame([asdict(row) for row in rows], schema=schema).sort("user_id", "block")


def n_prompts(histories: pl.DataFrame, *, block_size: int = 3, max_items: int | None = None) -> int:
    """How many prompts a full preference_history of every user takes: for progress bars and plans."""
    lengths = histories.group_by("user_id").len()["len"].to_list()
    read = (length - _start(length, block_size, max_items) for length in lengths)
    return sum(-(-n // block_size) for n in read)


def items_read(
    histories: pl.DataFrame, *, block_size: int = 3, max_items: int | None = None
) -> pl.Series:
    """Ids of the items that `infer_preferences` would read, sorted: the only ones to summarise."""
    read = {
        item_id
        for item_ids in _histories(histories).values()
        for item_id in item_ids[_start(len(item_ids), block_size, max_items) :]
    }
    return pl.Series("item_id", sorted(read), dtype=pl.String)


def _start(length: int, block_size: int, max_items: int | None) -> int:
    if max_items is None or length <= max_items:
        return 0
    return min(-(-(length - max_items) // block_size) * block_size, length - 1)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the preference_history, `tables.PREFERENCES`."""

    user_id: str
    block: int
    n_items: int
    preference: str
    final: bool
    flags: str = ""


@dataclass(frozen=True, slots=True)
class _StepPlan:
    """Which prompts can be asked next, given the newest row of every user's preference_history."""

    users: Mapping[str, tuple[str, ...]]
    texts: Mapping[str, str]
    block_size: int
    max_items: int | None
    recurrent: bool
    every_block: bool

    def next_wave(self, latest: Mapping[str, _Row]) -> Iterator[_Step]:
        for user_id, item_ids in self.users.items():
            row = latest.get(user_id)
            if row is not None and row.final:
                continue
            if self.recurrent:
                start = row.n_items if row else self._start(len(item_ids))
                n_items = min(start + self.block_size, len(item_ids))
                previous = row.preference if row else None
                yield self._step(user_id, start, n_items, previous)
            else:
                yield from self._direct(user_id)

    def _direct(self, user_id: str) -> Iterator[_Step]:
        length = len(self.users[user_id])
        start = self._start(length)
        earlier = (
            range(start + self.block_size, length, self.block_size)
            if self.every_block
            else ()
        )
        for n_items in (*earlier, length):
            yield self._step(user_id, start, n_items, None)

    def _start(self, length: int) -> int:
        """Where reading begins: at a block's start, so that blocks are the same ever after."""
        return _start(length, self.block_size, self.max_items)

    def _step(self, user_id: str, start: int, n_items: int, previous: str | None) -> _Step:
        item_ids = self.users[user_id]
        return _Step(
            user_id=user_id,
            block=(n_items - 1) // self.block_size,
            n_items=n_items,
            final=n_items == len(item_ids),
            summaries=tuple(self.texts[i] for i in item_ids[start:n_items] if i in self.texts),
            previous=previous,
        )


def _advance(
    wave: Sequence[_Step], backend: Backend, item_type: str, words: int, progress: Progress | None
) -> Iterator[_Row]:
    """Answer one wave of steps; a step with nothing to read is settled without a prompt."""
    asked = [step for step in wave if step.summaries]
    for step in wave:
        if not step.summaries:
            yield _settled(step, item_type, words, "nothing_to_read")
    for index, answer in output_checks.ask(
        backend, (_prompt(step, item_type, words) for step in asked)
    ):
        yield _row(asked[index], answer, item_type, words)
        if progress is not None:
            progress(1)


def _texts(summaries: pl.DataFrame, column: str) -> dict[str, str]:
    # An item without text has no text summary; for MLLM-MSR_T it is then simply not mentioned.
    known = summaries.filter(pl.col(column).is_not_null() & (pl.col(column) != ""))
    return dict(zip(known["item_id"], known[column], strict=True))


def _histories(histories: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    grouped = (
        histories.sort("user_id", "position")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id"))
    )
    return {user: tuple(items) for user, items in grouped.iter_rows()}


def _taken_over(
    previous: pl.DataFrame | None, users: Mapping[str, Sequence[str]], block_size: int
) -> list[_Row]:
    """Rows of an earlier preference_history that the longer history leaves as they are."""
    if previous is None:
        return []
    rows: list[_Row] = []
    for values in previous.sort("user_id", "block").iter_rows(named=True):
        row = _Row(**values)
        length = len(users.get(row.user_id, ()))
        full = row.n_items == (row.block + 1) * block_size
        if row.n_items == length or (full and row.n_items < length):
            rows.append(replace(row, final=row.n_items == length))
    return rows


def _prompt(step: _Step, item_type: str, words: int) -> Prompt:
    data: dict[str, object] = {"summaries": step.summaries, "words": words}
    name = "preference_first"
    if step.previous is not None:
        data["preference"] = step.previous
        name = "preference_update"
    return templates.render(
        name, data, item_type=item_type, max_new_tokens=words * _TOKENS_PER_WORD
    )


def _row(step: _Step, answer: Answer, item_type: str, words: int) -> _Row:
    completion = answer.completion
    preference, cut = templates.calibrate(completion.text, words)
    if completion.error is not None or not preference:
        reason = completion.error or "empty answer"
        logger.warning("user %s keeps the previous preference: %s", step.user_id, reason)
        return _settled(step, item_type, words, ",".join(("failed", *answer.flags)))
    flags = [*answer.flags]
    if cut or completion.finish_reason == "length":
        flags.append("cut")
    if not preference.startswith(OPENING):
        flags.append("unexpected_opening")
    return _Row(step.user_id, step.block, step.n_items, preference, step.final, ",".join(flags))


def _settled(step: _Step, item_type: str, words: int, flag: str) -> _Row:
    """A row without a model's answer: the previous preference, else the summaries as they are."""
    preference = step.previous
    if preference is None:
        listed = "; ".join(reversed(step.summaries)) or "an unknown kind"
        item_types = templates.find_item_type(item_type).plural
        preference = templates.calibrate(f"{OPENING} {item_types} such as: {listed}", words)[0]
    return _Row(step.user_id, step.block, step.n_items, preference, step.final, flag)

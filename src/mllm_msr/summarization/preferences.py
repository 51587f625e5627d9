"""User preferences: infer a text from each user's history, block by block (stage "infer").

Paper, section "Recurrent User Preference Inference": P_t = LLM(P_{t-1}, block_t), where P_1 depends
on the first block alone. All users advance together, one block per round. Every P_t is stored;
together they form the user's preference history. The direct method (MLLM-MSR_R) reads the whole
history in one prompt instead.
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
from mllm_msr.prompts.item_types import ENGLISH, ItemType, find_item_type
from mllm_msr.summarization.output_checks import generate_checked

logger = logging.getLogger(__name__)

Method = Literal["recurrent", "direct"]
Progress = Callable[[int], None]

# First words of every preference; the prompts ask for them.
OPENING: Final = "The user appears to have a preference for"


def infer_preferences(
    histories: tables.Frame,
    summaries: tables.Frame,
    backend: Backend,
    *,
    item_type: str | ItemType = "item",
    method: Method = "recurrent",
    block_size: int = 3,
    max_items: int | None = None,
    words: int = 80,
    use_images: bool = True,
    every_block: bool = True,
    previous: pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Infer the preference of every user.

    Args:
        histories: `tables.INTERACTIONS` without the targets; positions are 0, 1, ...
        summaries: `tables.SUMMARIES`. Items without a row are not mentioned in prompts.
        backend: Backend that answers the prompts. It need not support images.
        item_type: Word for an item in prompts, see `item_types.find_item_type`.
        method: "recurrent" (the paper's method) or "direct" (MLLM-MSR_R).
        block_size: Items per block. The last block of a user may be shorter.
        max_items: Maximum number of items to read, the latest ones. Only whole blocks are left
            out, so up to `block_size` - 1 items fewer may be read. `None` reads all items.
        words: Maximum length of a preference in words.
        use_images: Whether to read the combined summaries; otherwise the text summaries
            (MLLM-MSR_T).
        every_block: With method "direct", whether to infer a preference at the end of every block,
            not only for the whole history. Training needs it if earlier positions are targets.
        previous: Result of an earlier call with shorter histories and the same settings. With
            method "recurrent", its full blocks are reused, so that a new interaction costs one
            prompt.
        progress: Called with the number of prompts finished since the last call.

    Returns:
        `tables.PREFERENCES`, sorted by user and block, for every user with a history. If a prompt
        fails, the row has a flag and falls back to the previous preference or to the summaries.
    """
    column = "summary" if use_images else "text_summary"
    texts = tables.as_frame(summaries, name="summaries").filter(pl.col(column) != "")
    plan = _Plan(
        users=_items_by_user(tables.as_frame(histories, name="histories")),
        texts=dict(zip(texts["item_id"], texts[column], strict=True)),
        block_size=block_size,
        max_items=max_items,
        recurrent=method == "recurrent",
        every_block=every_block,
    )
    rows = plan.reuse(previous) if previous is not None and plan.recurrent else []
    latest = {row.user_id: row for row in rows}
    while steps := list(plan.next_steps(latest)):
        for row in _run(steps, backend, item_type, words, progress):
            rows.append(row)
            newest = latest.get(row.user_id)
            if newest is None or newest.n_items < row.n_items:
                latest[row.user_id] = row
    schema = dict(tables.PREFERENCES)
    return pl.DataFrame([asdict(row) for row in rows], schema=schema).sort("user_id", "block")


def n_prompts(histories: pl.DataFrame, *, block_size: int = 3, max_items: int | None = None) -> int:
    """Return the number of prompts of `infer_preferences` with every block, without retries."""
    lengths = histories.group_by("user_id").len()["len"].to_list()
    n_read = (length - _first_position(length, block_size, max_items) for length in lengths)
    return sum(-(-n // block_size) for n in n_read)


def items_read(
    histories: pl.DataFrame, *, block_size: int = 3, max_items: int | None = None
) -> pl.Series:
    """Return the ids of the items that `infer_preferences` reads, sorted.

    Only these items need summaries.
    """
    read = {
        item_id
        for item_ids in _items_by_user(histories).values()
        for item_id in item_ids[_first_position(len(item_ids), block_size, max_items) :]
    }
    return pl.Series("item_id", sorted(read), dtype=pl.String)


@dataclass(frozen=True, slots=True)
class _Step:
    """One prompt, which updates the preference `previous` with the `summaries` of a block."""

    user_id: str
    block: int
    n_items: int
    final: bool
    summaries: tuple[str, ...]
    previous: str | None


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of `tables.PREFERENCES`."""

    user_id: str
    block: int
    n_items: int
    preference: str
    final: bool
    flags: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The order of the prompts of all users.

    Attributes:
        users: Item ids of each user's history, oldest first.
        texts: Summary of each item.
        block_size: As for `infer_preferences`.
        max_items: As for `infer_preferences`.
        recurrent: Whether the method is "recurrent".
        every_block: As for `infer_preferences`.
    """

    users: Mapping[str, tuple[str, ...]]
    texts: Mapping[str, str]
    block_size: int
    max_items: int | None
    recurrent: bool
    every_block: bool

    def reuse(self, previous: pl.DataFrame) -> list[_Row]:
        """Return the rows of an earlier call that are still valid for the current histories."""
        rows: list[_Row] = []
        for values in previous.sort("user_id", "block").iter_rows(named=True):
            row = _Row(**values)
            length = len(self.users.get(row.user_id, ()))
            is_full = row.n_items == (row.block + 1) * self.block_size
            if row.n_items == length or (is_full and row.n_items < length):
                rows.append(replace(row, final=row.n_items == length))
        return rows

    def next_steps(self, latest: Mapping[str, _Row]) -> Iterator[_Step]:
        """Yield the prompts of the next round.

        Args:
            latest: The latest row of each user that has one.
        """
        for user_id, item_ids in self.users.items():
            row = latest.get(user_id)
            if row is not None and row.final:
                continue
            length = len(item_ids)
            start = _first_position(length, self.block_size, self.max_items)
            if self.recurrent:
                start = row.n_items if row else start
                stop = min(start + self.block_size, length)
                yield self._step(user_id, start, stop, row.preference if row else None)
            else:
                ends = range(start + self.block_size, length, self.block_size)
                for stop in (*(ends if self.every_block else ()), length):
                    yield self._step(user_id, start, stop, None)

    def _step(self, user_id: str, start: int, stop: int, previous: str | None) -> _Step:
        item_ids = self.users[user_id]
        return _Step(
            user_id=user_id,
            block=(stop - 1) // self.block_size,
            n_items=stop,
            final=stop == len(item_ids),
            summaries=tuple(self.texts[i] for i in item_ids[start:stop] if i in self.texts),
            previous=previous,
        )


def _items_by_user(histories: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the item ids of each user, oldest first."""
    grouped = (
        histories.sort("user_id", "position")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id"))
    )
    return {user: tuple(items) for user, items in grouped.iter_rows()}


def _first_position(length: int, block_size: int, max_items: int | None) -> int:
    """Return the position at which reading starts.

    It is the start of a block, so that blocks stay the same when the history grows.
    """
    if max_items is None or length <= max_items:
        return 0
    return min(-(-(length - max_items) // block_size) * block_size, length - 1)


def _run(
    steps: Sequence[_Step],
    backend: Backend,
    item_type: str | ItemType,
    words: int,
    progress: Progress | None,
) -> Iterator[_Row]:
    """Yield the rows of the given steps in any order; steps without summaries need no prompt."""
    for step in steps:
        if not step.summaries:
            yield _fallback_row(step, item_type, words, "nothing_to_read")
    prompted = [step for step in steps if step.summaries]
    prompts = (
        templates.render(
            "preference_first" if step.previous is None else "preference_update",
            {
                "summaries": step.summaries,
                "words": words,
                **({} if step.previous is None else {"preference": step.previous}),
            },
            item_type=item_type,
            max_new_tokens=words * templates.TOKENS_PER_WORD,
        )
        for step in prompted
    )
    language = find_item_type(item_type).language
    for index, checked in generate_checked(backend, prompts, language=language):
        step, completion = prompted[index], checked.completion
        preference, cut = templates.limit_words(completion.text, words)
        if completion.error is not None or not preference:
            reason = completion.error or "empty answer"
            logger.warning(
                "no new preference of user %s, using a fallback: %s", step.user_id, reason
            )
            yield _fallback_row(step, item_type, words, ",".join(("failed", *checked.flags)))
        else:
            flags = [*checked.flags]
            if cut or completion.finish_reason == "length":
                flags.append("cut")
            if language == ENGLISH and not preference.startswith(OPENING):
                flags.append("unexpected_opening")
            yield _Row(
                step.user_id, step.block, step.n_items, preference, step.final, ",".join(flags)
            )
        if progress is not None:
            progress(1)


def _fallback_row(step: _Step, item_type: str | ItemType, words: int, flags: str) -> _Row:
    """Return a row with a fallback: the previous preference or, without one, the summaries."""
    preference = step.previous
    if preference is None:
        listed = "; ".join(reversed(step.summaries)) or "an unknown kind"
        plural = find_item_type(item_type).plural
        preference = templates.limit_words(f"{OPENING} {plural} such as: {listed}", words)[0]
    return _Row(step.user_id, step.block, step.n_items, preference, step.final, flags)

"""The symbolic teacher: what a perfect reader of the prompts would answer, and the ceilings.

The rule of preference, per slot: the most frequent value among the previous preference and the
items at hand, where the previous preference counts as one item older than all others; of values
equally frequent the one seen last wins. The first block has no previous preference; direct
inference (MLLM-MSR_R) is the same rule over the whole history at once. Ceilings tell how well
ranking by matches with such a preference can do in a world, so that a model's figures have a
measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from mllm_msr.demo_model.language import PartialValues
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, TEXT_SLOTS, World, make_world


def update_preference(
    previous: PartialValues | None, block: Sequence[PartialValues]
) -> PartialValues:
    """The preference after a block of items, oldest first.

    Args:
        previous: Preference before the block, None for the first block.
        block: What each item shows; None where an item lacks that modality.

    Examples:
        >>> update_preference(("cooking",), [("music",), ("travel",), ("music",)])
        ('music',)
    """
    rows = [*([previous] if previous is not None else []), *block]
    width = len(rows[0])
    return tuple(_mode([row[slot] for row in rows]) for slot in range(width))


def _mode(seen: Sequence[str | None]) -> str | None:
    rank: dict[str, tuple[int, int]] = {}
    for place, value in enumerate(seen):
        if value is not None:
            rank[value] = (rank.get(value, (0, 0))[0] + 1, place)
    return max(rank, key=lambda value: rank[value]) if rank else None


def recurrent_preference(
    history: Sequence[PartialValues], *, block_size: int = 3
) -> list[PartialValues]:
    """The preference_history of preferences over a history, one after each block."""
    preference_history: list[PartialValues] = []
    for start in range(0, len(history), block_size):
        previous = preference_history[-1] if preference_history else None
        preference_history.append(update_preference(previous, history[start : start + block_size]))
    return preference_history


def ceilings(world: World, *, n_negatives: int = 20, seed: int = 0) -> Mapping[str, float]:
    """AUC, over users, of rankings by matching slots: what a perfect reader reaches.

    Args:
        world: The world; each user's last item is the target.
        n_negatives: Uniform negatives per user.
        seed: Seed of the negatives.

    Returns:
        Mean AUC in [0, 1] of: true_taste, teacher (recurrent), direct, text_only, image_only,
        popularity.
    """
    rng = np.random.default_rng([seed, 3])
    counts = np.zeros(len(world.items))
    for user in world.users:
        counts[list(user.history[:-1])] += 1
    values = [item.values for item in world.items]
    found: dict[str, list[float]] = {}
    for user in world.users:
        target = user.history[-1]
        unseen = np.setdiff1d(np.arange(len(values)), user.history)
        rows = [target, *rng.choice(unseen, n_negatives, replace=False)]
        history = [values[i] for i in user.history[:-1]]
        teacher = recurrent_preference(history)[-1]
        preferences = {
            "true_taste": user.tastes[-1],
            "teacher": teacher,
            "direct": update_preference(None, history),
            "text_only": _masked(teacher, TEXT_SLOTS),
            "image_only": _masked(teacher, IMAGE_SLOTS),
        }
        for name, wanted in preferences.items():
            scores = [sum(a == b for a, b in zip(wanted, values[i], strict=True)) for i in rows]
            found.setdefault(name, []).append(_auc(np.array(scores)))
        found.setdefault("popularity", []).append(_auc(counts[rows]))
    return {name: round(float(np.mean(aucs)), 4) for name, aucs in found.items()}


def _masked(values: PartialValues, slots: Sequence[int]) -> PartialValues:
    return tuple(value if i in slots else None for i, value in enumerate(values))


def _auc(scores: np.ndarray) -> float:
    # The target stands first; ties count half.
    return float(np.mean((scores[1:] < scores[0]) + 0.5 * (scores[1:] == scores[0])))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the ceilings of some worlds as JSON: `python -m recipes.demo_model.teacher`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args(argv).seeds
    result = {str(seed): ceilings(make_world(seed)) for seed in seeds}
    json.dump({"slots": [slot.name for slot in SLOTS], "auc": result}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()

"""Symbolic teacher: the preferences of a perfect reader, and the AUC that they reach.

Per slot, a preference is the most frequent value among the previous preference and the items of the
block. The previous preference counts as one item that is older than all others; ties go to the
value that occurs last. The first block has no previous preference. Direct inference (MLLM-MSR_R)
applies the same rule to the whole history at once.

`ceilings` ranks candidates by the number of slots that match such a preference. The resulting AUC
is the highest that a model can be expected to reach in a world. Run
`python -m recipes.demo_model.teacher` from the repository root to print it.
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
    """Return the preference after a block of items.

    Args:
        previous: Preference before the block, `None` for the first block.
        block: Values of each item, oldest first; `None` where an item lacks the modality.

    Examples:
        >>> update_preference(("cooking",), [("music",), ("travel",), ("music",)])
        ('music',)
    """
    rows = [*([previous] if previous is not None else []), *block]
    return tuple(_latest_mode([row[slot] for row in rows]) for slot in range(len(rows[0])))


def _latest_mode(values: Sequence[str | None]) -> str | None:
    """Return the most frequent value; of equally frequent ones, the one that occurs last."""
    count_and_index: dict[str, tuple[int, int]] = {}
    for index, value in enumerate(values):
        if value is not None:
            count_and_index[value] = (count_and_index.get(value, (0, 0))[0] + 1, index)
    return max(count_and_index, key=lambda value: count_and_index[value], default=None)


def recurrent_preference(
    history: Sequence[PartialValues], *, block_size: int = 3
) -> list[PartialValues]:
    """Return the preference after each block of a history."""
    preferences: list[PartialValues] = []
    for start in range(0, len(history), block_size):
        previous = preferences[-1] if preferences else None
        preferences.append(update_preference(previous, history[start : start + block_size]))
    return preferences


def ceilings(world: World, *, n_negatives: int = 20, seed: int = 0) -> Mapping[str, float]:
    """Return the mean AUC over users of rankings by the number of matching slots.

    Args:
        world: A world. The last item of each user is the target.
        n_negatives: Uniform negatives per user.
        seed: Seed of the negatives.

    Returns:
        AUC in [0, 1] by the preference that is matched: true_taste, teacher (recurrent), direct,
        text_only, image_only; and popularity, which ranks by item counts instead.
    """
    rng = np.random.default_rng([seed, 3])
    counts = np.zeros(len(world.items))
    for user in world.users:
        counts[list(user.history[:-1])] += 1
    values = [item.values for item in world.items]
    aucs: dict[str, list[float]] = {}
    for user in world.users:
        target = user.history[-1]
        new_items = np.setdiff1d(np.arange(len(values)), user.history)
        rows = [target, *rng.choice(new_items, n_negatives, replace=False)]
        history = [values[i] for i in user.history[:-1]]
        teacher = recurrent_preference(history)[-1]
        preferences = {
            "true_taste": user.tastes[-1],
            "teacher": teacher,
            "direct": update_preference(None, history),
            "text_only": mask_slots(teacher, TEXT_SLOTS),
            "image_only": mask_slots(teacher, IMAGE_SLOTS),
        }
        for name, wanted in preferences.items():
            scores = [sum(a == b for a, b in zip(wanted, values[i], strict=True)) for i in rows]
            aucs.setdefault(name, []).append(_auc(np.array(scores)))
        aucs.setdefault("popularity", []).append(_auc(counts[rows]))
    return {name: round(float(np.mean(of_users)), 4) for name, of_users in aucs.items()}


def mask_slots(values: PartialValues, slots: Sequence[int]) -> PartialValues:
    """Replace the values of all slots but the given ones by `None`."""
    return tuple(value if i in slots else None for i, value in enumerate(values))


def _auc(scores: np.ndarray) -> float:
    """Return the AUC of scores whose first entry is the target's; ties count half."""
    return float(np.mean((scores[1:] < scores[0]) + 0.5 * (scores[1:] == scores[0])))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the ceilings of the given worlds as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="world seeds")
    seeds = parser.parse_args(argv).seeds
    result = {str(seed): ceilings(make_world(seed)) for seed in seeds}
    json.dump({"slots": [slot.name for slot in SLOTS], "auc": result}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()

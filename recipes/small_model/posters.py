"""Measure how often descriptions of film posters name a right genre, without and with `align`.

    python -m recipes.small_model.posters --data MOVIELENS --output build/posters

The posters that the projector is aligned to and those that are described are different random
films. The folder needs posters: `images/<movieId>.jpg`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from mllm_msr.config.align_settings import AlignSettings
from mllm_msr.datasets.movielens import MovieLens
from mllm_msr.models.small.cache import small_checkpoint
from mllm_msr.ranker.alignment.examples import alignment_examples
from mllm_msr.ranker.alignment.trainer import PROJECTOR_FILE, align
from mllm_msr.types import Item
from recipes.small_model.naming import naming_rates, write_descriptions

logger = logging.getLogger(__name__)

_GRID: Final = 4
_WORDS: Final = 40
# Other words for a genre; all other genres are searched for by their names.
_SYNONYMS: Final = {
    "sci-fi": ("sci-fi", "science fiction", "science-fiction"),
    "film-noir": ("noir",),
    "romance": ("romance", "romantic"),
    "children": ("children", "kids"),
    "animation": ("animation", "animated", "cartoon"),
}


def main() -> None:
    """Run the measurement; `--help` describes the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens with posters")
    parser.add_argument("--output", type=Path, required=True, help="folder of all files")
    parser.add_argument("--aligned", type=int, default=60, help="films to align with")
    parser.add_argument("--held-out", type=int, default=60, help="films to describe")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of films")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    aligned, held_out = _choose_films(options.data, options.aligned, options.held_out, options.seed)
    folder = options.output / "alignment"
    if not (folder / PROJECTOR_FILE).exists():
        summary = align(
            alignment_examples(aligned, item_type="film", words=_WORDS),
            checkpoint=str(small_checkpoint(_GRID)),
            folder=folder,
            settings=AlignSettings(),
        )
        logger.info("%s", summary)
    result = {}
    for name, projector in (("packaged", None), ("aligned", folder / PROJECTOR_FILE)):
        images = [item.images[0] for item in held_out]
        answers = write_descriptions(images, projector=projector, item_type="film")
        result[name] = naming_rates(answers, [_genre_words(item) for item in held_out])
        logger.info("%s: %s", name, result[name])
        for answer in answers[:10]:
            logger.info("  %r", answer)
    text = json.dumps(result, indent=1)
    (options.output / "measured.json").write_text(text, encoding="utf-8")


def _choose_films(
    folder: Path, n_aligned: int, n_held_out: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return two disjoint random samples of the films with a poster and a genre."""
    items = [
        Item.from_row(row) for row in MovieLens(path=folder).load().items.iter_rows(named=True)
    ]
    usable = [item for item in items if item.images and _genre_words(item)]
    order = np.random.default_rng(seed).permutation(len(usable))[: n_aligned + n_held_out]
    chosen = [usable[int(index)] for index in order]
    return chosen[:n_aligned], chosen[n_aligned:]


def _genre_words(item: Item) -> Sequence[str]:
    """Return the words that name a genre of a film."""
    _, found, rest = item.text.partition("Genres: ")
    genres = rest.partition(".")[0].lower().split(", ") if found else []
    return [word for genre in genres for word in _SYNONYMS.get(genre, (genre,))]


if __name__ == "__main__":
    main()

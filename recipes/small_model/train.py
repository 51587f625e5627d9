"""Train the projector of the small model on drawn scenes, measure it and export it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file

from mllm_msr.config.align_settings import AlignSettings
from mllm_msr.models.small.cache import small_checkpoint
from mllm_msr.models.small.sources import PROJECTOR
from mllm_msr.ranker.alignment.examples import AlignmentExample
from mllm_msr.ranker.alignment.trainer import PROJECTOR_FILE, align
from recipes.small_model.captions import make_example
from recipes.small_model.drawings import Scene, draw_scene
from recipes.small_model.naming import naming_rates, write_descriptions

logger = logging.getLogger(__name__)

_SEED: Final = 0
_GRID: Final = 4
# Held-out scenes have numbers of their own.
_HELD_OUT: Final = 1_000_000


def main() -> None:
    """Run the recipe; `--help` describes the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of all files")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps")
    parser.add_argument("--held-out", type=int, default=100, help="scenes to measure with")
    parser.add_argument("--export", action="store_true", help="copy the result into the package")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    images = options.output / "scenes"
    images.mkdir(parents=True, exist_ok=True)
    folder = options.output / "alignment"
    if not (folder / PROJECTOR_FILE).exists():
        examples = [_example(images, number) for number in range(options.scenes)]
        settings = AlignSettings(max_steps=options.steps, checkpoint_every=20, seed=_SEED)
        checkpoint = str(small_checkpoint(_GRID))
        summary = align(
            examples,
            checkpoint=checkpoint,
            folder=folder,
            settings=settings,
            projector=_initial_projector(options.output / "initial.safetensors"),
            show=_show,
            show_images=_show,
        )
        logger.info("%s", summary)
    shown = [_scene(images, _HELD_OUT + number) for number in range(options.held_out)]
    result = measure(folder / PROJECTOR_FILE, shown)
    logger.info("%s", result)
    (options.output / "measured.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.export:
        shutil.copyfile(folder / PROJECTOR_FILE, PROJECTOR)


def measure(projector: Path, scenes: Sequence[tuple[Path, Scene]]) -> dict[str, dict[str, float]]:
    """Return how often descriptions of scenes name the right subject and main color.

    Args:
        projector: Weights of the projector.
        scenes: Scenes that were not trained on.

    Returns:
        `naming_rates` by kind of word, and of the subject by kind of scene.
    """
    images = [path for path, _ in scenes]
    answers = write_descriptions(images, projector=projector, item_type="item")
    for (_, scene), answer in zip(scenes[:10], answers, strict=False):
        logger.info("%r: %r", scene.subject, answer)
    shown = [scene for _, scene in scenes]
    result = {
        "subject": naming_rates(answers, [{scene.key} for scene in shown]),
        "color": naming_rates(answers, [{scene.colors[0]} for scene in shown]),
    }
    for kind in sorted({scene.kind for scene in shown}):
        rows = [n for n, scene in enumerate(shown) if scene.kind == kind]
        result[f"subject of {kind}"] = naming_rates(
            [answers[n] for n in rows], [{shown[n].key} for n in rows]
        )
    return result


def _initial_projector(file: Path) -> Path:
    """Write random weights, so that the result does not depend on a packaged projector."""
    generator = torch.Generator().manual_seed(_SEED)
    state: dict[str, torch.Tensor] = {}
    for name, n_in in (("linear_1", 1280), ("linear_2", 576)):
        weight = 0.02 * torch.randn(576, n_in, generator=generator)
        state |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(576)}
    save_file(state, file)
    return file


def _example(folder: Path, number: int) -> AlignmentExample:
    path, scene = _scene(folder, number)
    return make_example(path, scene, np.random.default_rng([_SEED, 1, number]))


def _scene(folder: Path, number: int) -> tuple[Path, Scene]:
    """Draw the scene of a number and save it."""
    image, scene = draw_scene(np.random.default_rng([_SEED, number]))
    path = folder / f"{number}.png"
    if not path.exists():
        image.save(path)
    return path, scene


@contextlib.contextmanager
def _show(n_steps: int, n_done: int, part: str = "") -> Iterator[Callable[[int], None]]:
    """Print the step now and then."""
    done = n_done

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done % 4 == 0:
            logger.info("%s%d of %d", f"{part}: " if part else "", done, n_steps)

    yield advance


if __name__ == "__main__":
    main()

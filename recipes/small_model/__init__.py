"""Recipe of a projector for the small model, packaged in `src/mllm_msr/models/small` once exported.

Run it from the repository root, after `make small`:

    python -m recipes.small_model.train --output build/small-model
    python -m recipes.small_model.train --output build/small-model --export

It draws all images itself and writes their captions, so the projector depends on no data of other
people. A killed run resumes.

- `drawings`: random scenes, with what they show.
- `captions`: prompts and answers about a scene.
- `train`: the training, and a measurement on held-out scenes.
- `naming`: how often descriptions name what an image shows.
- `posters`: the same on film posters of MovieLens, without and with `mllm-msr align`. They are only
  measured with: no part of them enters the projector.

Changing the order of random draws or a text requires a new projector.
"""

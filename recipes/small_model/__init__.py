"""Recipe of the packaged projector of the small model (`src/mllm_msr/models/small`).

Run it from the repository root, after `make small`:

    python -m recipes.small_model.train --output build/small-model
    python -m recipes.small_model.train --output build/small-model --export

It draws all images itself and writes their captions, so the projector depends on no data of other
people. A killed run resumes.

- `drawings`: random pictures, with what they show.
- `captions`: prompts and answers about a picture.
- `train`: the training, and accuracies on held-out pictures.

Changing the order of random draws or a text requires a new projector.
"""

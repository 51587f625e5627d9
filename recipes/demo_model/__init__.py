"""Training recipe of the packaged demo model (`src/mllm_msr/demo_model/weights`).

Run everything from the repository root. `make demo-model` trains the model from scratch and exports
it; these commands run the single steps:

    python -m recipes.demo_model.pretrain --output build/demo-model --resume
    python -m recipes.demo_model.pretrain --output build/demo-model --export build/weights
    python -m recipes.demo_model.measure --weights build/weights
    python -m recipes.demo_model.teacher

Modules in the order of the data flow:

- `teacher`: the rule that preferences follow, and the highest attainable AUC.
- `questions`, `corpus`: training examples, dialogues with known answers.
- `pool`: pool of covers, drawn once and cached on disk.
- `architecture`, `induction`: configuration, tokenizer and initial weights.
- `batches`: the curriculum, and examples as tensors.
- `learner`: the model with its loss.
- `training_state`: checkpoints.
- `probes`: accuracies on held-out examples, logged during training.
- `pretrain`: the training run.
- `quiz`, `measure`: evaluation of the exported model.

The strings in `corpus`, `questions` and `words.txt` are training data. Changing one of them, or the
order of random draws, requires new weights.
"""

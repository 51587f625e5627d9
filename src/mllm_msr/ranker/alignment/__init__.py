"""Alignment of images with text: training of the projector alone, the first stage of LLaVA.

- `examples`: prompts with an image and the text that the model learns to answer.
- `features`: inputs of the projector, computed once per image.
- `trainer`: the training, which resumes.
"""

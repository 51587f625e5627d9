"""Parts of tiny checkpoints: sizes, chat templates, a tokenizer, and writing to a folder."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS: Final = (
    "You are given the picture and the title of a video and a summary of a user's preference.",
    "Predict whether the user would watch this video at the next opportunity.",
    "Answer only yes or no. yes no yes no Yes No YES NO yes, no.",
    "The user appears to have a preference for calm films with a golden lantern on stripes.",
    "Describe the picture: objects, colours, visible text and style, in at most forty words.",
    "Join both descriptions of one product into a single summary.",
    "USER: yes ASSISTANT: no User: no Assistant: yes user assistant model system",
    "yes\nno\nyes\nno\nyes\nno",
)

Builder = Callable[[Path], None]

BUILDERS: Final[dict[str, Builder]] = {}
IS_VISION: Final[dict[str, bool]] = {}


def vision_family(builder: Builder) -> Builder:
    """Register a function that writes a checkpoint that reads images."""
    BUILDERS[builder.__name__], IS_VISION[builder.__name__] = builder, True
    return builder


def text_family(builder: Builder) -> Builder:
    """Register a function that writes a checkpoint that reads text only."""
    BUILDERS[builder.__name__], IS_VISION[builder.__name__] = builder, False
    return builder


# Layers of all language models and of most vision towers.
TEXT: Final = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def chatml(image: str = "") -> str:
    """Return the template of the ChatML format with a placeholder for images.

    Args:
        image: Text that the template writes for an image; empty for contents that are strings.
    """
    content = "{{ message['content'] }}"
    if image:
        content = (
            "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
            f"{{{{ '{image}' }}}}"
            "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        )
    return (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        + content
        + "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def image_processor(family: str, name: str, **options: Any) -> Any:
    """Return an image processor of Transformers that uses Pillow.

    Args:
        family: Module of the family in `transformers.models`.
        name: Class name.
        **options: Arguments of the class.
    """
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, name)(**options)


def special_ids(tokenizer: transformers.PreTrainedTokenizerFast) -> dict[str, int | None]:
    """Return the arguments of a configuration that depend on the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def llama_config(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlamaConfig:
    """Return the configuration of a Llama decoder for a tokenizer."""
    return transformers.LlamaConfig(**TEXT, **special_ids(tokenizer))


def make_tokenizer(
    marks: Sequence[str],
    *,
    bos: str | None,
    eos: str,
    pad: str,
    named: Mapping[str, str] | None = None,
) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with `marks` as additional special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = [token for token in (pad, bos, eos, *marks) if token is not None]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 200 + len(specials),
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(marks),
        extra_special_tokens=dict(named or {}),
        model_max_length=2048,
    )


def save(
    architecture: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    processor: transformers.ProcessorMixin | transformers.PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Write a model with random weights, and its processor or tokenizer, to a folder."""
    _save_model(architecture, config, folder)
    processor.save_pretrained(folder)


def save_with_files(
    architecture: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tokenizer: transformers.PreTrainedTokenizerFast,
    folder: Path,
    *,
    processor: str,
    image_processor: Mapping[str, Any],
    template: str,
    **options: Any,
) -> None:
    """Write a checkpoint whose processor class may need packages that are not installed.

    Args:
        architecture: Class of the model.
        config: Configuration of the model.
        tokenizer: Tokenizer.
        folder: Folder to create.
        processor: Class name of the processor.
        image_processor: Settings of the image processor, with its class name.
        template: Chat template.
        **options: Settings of the processor.
    """
    _save_model(architecture, config, folder)
    tokenizer.save_pretrained(folder)
    settings = {"processor_class": processor, "image_processor": image_processor, **options}
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _save_model(
    architecture: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    folder: Path,
) -> None:
    """Write a model whose weights are scaled so that outputs differ between prompts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))
    model.save_pretrained(folder)

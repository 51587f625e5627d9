"""Tiny random checkpoints of five model families, built offline.

Each function writes a complete checkpoint (weights, tokenizer, processor, chat template) of a few
hundred kilobytes that loads like a real checkpoint of its family. The byte-level tokenizer is
trained on the few lines of `_CORPUS`. Weights are random, but scaled so that outputs differ between
prompts. To inspect the checkpoints, run `python tests/tiny_checkpoints.py FOLDER`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mllm_msr.models.loading import without_video

FAMILIES: Final = ("llava_next", "qwen2_5_vl", "smolvlm", "gemma3", "llama")
VISION_FAMILIES: Final = FAMILIES[:-1]

_CORPUS: Final = (
    "You are given the picture and the title of a video and a summary of a user's preference.",
    "Predict whether the user would watch this video at the next opportunity.",
    "Answer only yes or no. yes no yes no Yes No YES NO yes, no.",
    "The user appears to have a preference for calm films with a golden lantern on stripes.",
    "Describe the picture: objects, colours, visible text and style, in at most forty words.",
    "Join both descriptions of one product into a single summary.",
    "USER: yes ASSISTANT: no User: no Assistant: yes user assistant model system",
    "yes\nno\nyes\nno\nyes\nno",
)

_LLAVA_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ASSISTANT:' }}"
    "{% for part in message['content'] %}{{ ' ' + part['text'] + '</s>' }}{% endfor %}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
_QWEN_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SMOLVLM_TEMPLATE: Final = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_GEMMA_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}"
    "{{ '\n' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<start_of_image>' }}{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_LLAMA_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_TEXT: Final = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_VISION: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def build(family: str, folder: Path) -> Path:
    """Write the checkpoint of one of `FAMILIES` into a new folder and return the folder."""
    _BUILDERS[family](folder)
    return folder


def llava_next(folder: Path) -> None:
    """Write LLaVA-NeXT: CLIP tower, any-resolution tiles, one token per patch, Llama decoder."""
    tokenizer = _tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(
            **_VISION, image_size=28, patch_size=7, projection_dim=32
        ),
        text_config=_llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaNextProcessor(
        transformers.models.llava_next.image_processing_pil_llava_next.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    _save(transformers.LlavaNextForConditionalGeneration, config, processor, folder)


def qwen2_5_vl(folder: Path) -> None:
    """Write Qwen2.5-VL: patch grids of native resolution, multimodal rotary positions."""
    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(marks, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": _TEXT["hidden_size"],
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    processor = without_video(transformers.Qwen2_5_VLProcessor)(
        transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
            patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
        ),
        tokenizer,
        chat_template=_QWEN_TEMPLATE,
    )
    _save(transformers.Qwen2_5_VLForConditionalGeneration, config, processor, folder)


def smolvlm(folder: Path) -> None:
    """Write SmolVLM: Idefics3 image splitting with row and column tokens, pixel shuffle."""
    marks = ["<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(marks, bos=None, eos="<end_of_utterance>", pad="<|im_end|>")
    config = transformers.SmolVLMConfig(
        vision_config={**_VISION, "image_size": 32, "patch_size": 8},
        text_config=_llama_config(tokenizer).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    image_processor = transformers.models.smolvlm.image_processing_pil_smolvlm
    processor = transformers.Idefics3Processor(
        image_processor.SmolVLMImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        tokenizer,
        image_seq_len=4,
        chat_template=_SMOLVLM_TEMPLATE,
    )
    _save(transformers.SmolVLMForConditionalGeneration, config, processor, folder)


def gemma3(folder: Path) -> None:
    """Write Gemma 3: SigLIP tower, pooled image tokens, bidirectional attention within an image."""
    marks = ["<start_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = _tokenizer(
        marks,
        bos="<bos>",
        eos="<end_of_turn>",
        pad="<pad>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    text = transformers.Gemma3TextConfig(
        **_TEXT,
        head_dim=12,
        vocab_size=len(tokenizer),
        sliding_window=64,
        query_pre_attn_scalar=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(**_VISION, image_size=32, patch_size=8),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = transformers.Gemma3Processor(
        transformers.models.gemma3.image_processing_pil_gemma3.Gemma3ImageProcessorPil(
            size={"height": 32, "width": 32}
        ),
        tokenizer,
        image_seq_length=4,
        chat_template=_GEMMA_TEMPLATE,
    )
    _save(transformers.Gemma3ForConditionalGeneration, config, processor, folder)


def llama(folder: Path) -> None:
    """Write Llama 3: text only, contents of turns are plain strings."""
    marks = ["<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = _tokenizer(marks, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|pad|>")
    tokenizer.chat_template = _LLAMA_TEMPLATE
    _save(transformers.LlamaForCausalLM, _llama_config(tokenizer), tokenizer, folder)


_BUILDERS: Final[Mapping[str, Callable[[Path], None]]] = {
    "llava_next": llava_next,
    "qwen2_5_vl": qwen2_5_vl,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
    "llama": llama,
}


def _llama_config(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        **_TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer(
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
    core.train_from_iterator(_CORPUS * 4, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(marks),
        extra_special_tokens=dict(named or {}),
        model_max_length=2048,
    )


def _save(
    architecture: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    processor: transformers.ProcessorMixin | transformers.PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    for name in FAMILIES:
        build(name, Path(sys.argv[1]) / name)

"""Options of a checkpoint's processor and chat template, and an upper bound on image tokens.

`models/loading.py` applies them to a processor once, so that training, scoring and serving prepare
images alike. How many tokens an image takes depends on options that differ between families; they
are found by trying smaller values and measuring the tokens with the processor itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import jinja2
import jinja2.meta
from PIL import Image

from mllm_msr.errors import BackendError
from mllm_msr.storage.atomic import write_text
from mllm_msr.types import TemplateValue

_FILE: Final = "processor_options.json"
_ARGUMENTS: Final = ("image_side", "image_tokens", "processor", "template")
# Arguments of calls, which the package passes itself.
_NOT_OPTIONS: Final = frozenset(
    {"return_tensors", "data_format", "input_data_format", "device", "disable_grouping"}
)
# Variables of every chat template that the package sets itself, with the turns of a prompt.
_NOT_VARIABLES: Final = frozenset({"messages", "add_generation_prompt"})
# Functions and a tag that Transformers adds to Jinja.
_TEMPLATE_FUNCTIONS: Final = frozenset({"raise_exception", "strftime_now"})
_GENERATION_TAG: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
# Attributes of a processor that are its parts, or belong to its tokenizer.
_NO_OPTION: Final = re.compile(r"^_|_processor$|_extractor$|_template$|tokenizer|_token$|_ids?$")
# Width and height of images with which the number of tokens is measured, in pixels.
_SIZES: Final = (
    (1600, 1600), (1600, 1200), (1200, 1600), (1920, 1080), (1080, 1920), (2100, 700), (700, 2100),
)  # fmt: skip
# Each attempt to make an image smaller aims below the bound, since processors round sizes.
_SHRINKAGE: Final = 0.9
_MIN_SIDE: Final = 8
# What a processor raises if an option or an image does not suit it.
_PROCESSOR_ERRORS: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessorOptions:
    """How images are prepared, and variables of the chat template; by default those of the model.

    Attributes:
        image_side: Maximum width and height of an image before the processor, in pixels.
        image_tokens: Maximum number of tokens of an image.
        processor: Options of the image processor, or attributes of the processor, by name.
        template: Variables of the chat template.
    """

    image_side: int | None = None
    image_tokens: int | None = None
    processor: Options = field(default_factory=dict)
    template: Mapping[str, TemplateValue] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the options among the constructor arguments of a backend."""
        return cls(**{name: arguments[name] for name in _ARGUMENTS if arguments.get(name)})

    @property
    def fingerprint(self) -> str:
        """Return the options that are set, as text; empty for the defaults of the checkpoint."""
        values = {name: getattr(self, name) for name in _ARGUMENTS}
        given = {name: value for name, value in values.items() if value}
        return json.dumps(given, sort_keys=True) if given else ""

    def save(self, folder: Path) -> None:
        """Record the options in a folder of fine-tuned weights, unless all are defaults."""
        if self.fingerprint:
            write_text(folder / _FILE, self.fingerprint + "\n")


DEFAULT_OPTIONS: Final = ProcessorOptions()


def recorded_options(folder: Path) -> str:
    """Return the fingerprint of the options with which the weights in a folder were fine-tuned."""
    path = folder / _FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def configure(processor: Any, options: ProcessorOptions) -> Any:
    """Apply options to a processor that was just loaded.

    Args:
        processor: A checkpoint's processor, or its tokenizer for a text-only model; changed.
        options: The options.

    Returns:
        The processor, or a wrapper that makes images smaller first.

    Raises:
        BackendError: The processor or the chat template does not have an option, rejects its
            value, or cannot encode an image with so few tokens.
    """
    _set_template_variables(processor, options.template)
    if not (options.processor or options.image_side or options.image_tokens):
        return processor
    if not hasattr(processor, "image_processor"):
        raise BackendError(
            "The checkpoint reads text only, so model.image_side, model.image_tokens and "
            "model.processor have no effect. Remove them."
        )
    bounded = BoundedProcessor(processor, options.image_side, options.image_tokens)
    bounded.set_options(options.processor)
    if options.image_tokens is not None:
        bounded.reduce_tokens()
    return bounded


class BoundedProcessor:
    """Processor that limits the size and the tokens of images; otherwise like the wrapped one.

    Args:
        processor: The processor of a multimodal checkpoint.
        image_side: Maximum width and height of an image, in pixels; larger ones are made smaller.
        image_tokens: Maximum number of tokens of an image.
    """

    def __init__(self, processor: Any, image_side: int | None, image_tokens: int | None) -> None:
        self._processor = processor
        self._image_side = image_side
        self._image_tokens = image_tokens
        # Some processors replace options of their image processor by defaults of their own.
        self._call_options: dict[str, Any] = {}
        self._fitting_size = functools.lru_cache(maxsize=4096)(self._find_size)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped processor."""
        if name.startswith("__") or name == "_processor":
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, *, images: Sequence[Image.Image] | None = None, **arguments: Any) -> Any:
        """Prepare texts and images.

        Raises:
            ValueError: An image takes more tokens than allowed at any size, or is rejected.
        """
        if images:
            arguments["images"] = [self._fit(image) for image in images]
            if self._call_options:
                arguments["images_kwargs"] = self._call_options
        return self._processor(**arguments)

    def set_options(self, options: Options) -> None:
        """Set options of the image processor, or attributes of the processor.

        Raises:
            BackendError: There is no such option, or its value is rejected.
        """
        if not options:
            return
        images = self._processor.image_processor
        known = set(images.valid_kwargs.__annotations__) - _NOT_OPTIONS
        own = {name for name in vars(self._processor) if not _NO_OPTION.search(name)}
        if unknown := sorted(set(options) - known - own):
            raise BackendError(
                f"model.processor.{unknown[0]} is not an option of "
                f"{type(images).__name__}. Available: {', '.join(sorted(known | own))}."
            )
        try:
            self._set_image_options({name: options[name] for name in options if name in known})
            for name in own.intersection(options):
                setattr(self._processor, name, options[name])
            self.count_tokens(_SIZES[0])
        except _PROCESSOR_ERRORS as error:
            raise BackendError(
                f"{type(images).__name__} rejects model.processor={dict(options)!r}: {error}. "
                "Change these options."
            ) from error

    def reduce_tokens(self) -> None:
        """Choose the options with the most tokens that keep to the bound for common sizes.

        Raises:
            BackendError: An image always takes more tokens.
        """
        assert self._image_tokens is not None
        smallest = 0
        for options in ({}, *_reductions(self._processor.image_processor, self._image_tokens)):
            before = self._processor.image_processor, dict(self._call_options)
            try:
                self._set_image_options(options)
                smallest = max(map(self.count_tokens, _SIZES))
            except _PROCESSOR_ERRORS:
                self._processor.image_processor, self._call_options = before
                continue
            if smallest <= self._image_tokens:
                return
        try:  # a processor without such options may take fewer tokens for smaller images
            for size in _SIZES:
                self._find_size(size)
        except ValueError as error:
            name = type(self._processor.image_processor).__name__
            raise BackendError(
                f"model.image_tokens is {self._image_tokens}, but {name} takes up to {smallest} "
                "tokens for an image and cannot do with fewer. Increase it."
            ) from error

    def count_tokens(self, size: tuple[int, int]) -> int:
        """Return the number of tokens of an image, with markers of its parts.

        Args:
            size: Width and height in pixels.
        """
        extra = {"images_kwargs": self._call_options} if self._call_options else {}
        output = self._processor(
            text=[self._processor.image_token],
            images=[Image.new("RGB", size)],
            add_special_tokens=False,
            return_tensors="pt",
            **extra,
        )
        return int(output["input_ids"].shape[1])

    def _set_image_options(self, options: Options) -> None:
        """Set options of the image processor, which checks and converts their values."""
        images = self._processor.image_processor
        self._processor.image_processor = type(images).from_dict(images.to_dict(), **options)
        # Versions of Transformers declare these defaults in one of two places.
        older = getattr(self._processor.valid_processor_kwargs, "_defaults", {})
        defaults = getattr(self._processor, "images_kwargs", older.get("images_kwargs", {}))
        self._call_options |= {name: options[name] for name in options if name in defaults}

    def _fit(self, image: Image.Image) -> Image.Image:
        size = self._fitting_size(image.size)
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)

    def _find_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the largest size with the same aspect ratio that meets the bounds."""
        if self._image_side is not None and max(size) > self._image_side:
            size = _scaled(size, self._image_side / max(size))
        if self._image_tokens is None:
            return size
        while (n_tokens := self.count_tokens(size)) > self._image_tokens:
            smaller = _scaled(size, _SHRINKAGE * min(1, (self._image_tokens / n_tokens) ** 0.5))
            if min(smaller) < _MIN_SIDE:
                raise ValueError(
                    f"the image takes {n_tokens} tokens at {size[0]} x {size[1]} pixels, more than "
                    f"model.image_tokens={self._image_tokens}"
                )
            size = smaller
        return size


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return a size in pixels multiplied by a factor, at least one pixel."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _reductions(images: Any, image_tokens: int) -> Iterator[Options]:
    """Yield options of an image processor that reduce the tokens of an image, most tokens first."""
    known = images.valid_kwargs.__annotations__
    size = getattr(images, "size", None) or {}
    longest, shortest = size.get("longest_edge"), size.get("shortest_edge")
    if "max_soft_tokens" in known:  # Gemma 4
        yield from ({"max_soft_tokens": images.max_soft_tokens >> n} for n in range(1, 5))
    elif "max_image_tokens" in known:  # LFM2-VL
        bounds = {name: min(getattr(images, name), image_tokens) for name in (
            "min_image_tokens", "max_image_tokens"
        )}  # fmt: skip
        yield {"do_image_splitting": False}
        yield {"do_image_splitting": False, **bounds}
    elif "do_image_splitting" in known:  # Idefics, SmolVLM: tiles of a fixed size
        tile = images.max_image_size["longest_edge"]
        yield from ({"size": {"longest_edge": n * tile}} for n in range(longest // tile - 1, 0, -1))
        yield {"do_image_splitting": False}
    elif "image_grid_pinpoints" in known:  # LLaVA-NeXT, LLaVA-OneVision: grids of tiles
        grids = sorted(images.image_grid_pinpoints, key=lambda grid: grid[0] * grid[1])
        for n in range(len(grids) - 1, 0, -1):
            yield {"image_grid_pinpoints": grids[:n]}
        side = min(min(grid) for grid in grids)
        yield {"image_grid_pinpoints": [[side, side]]}
    elif name := next((name for name in _TILE_COUNTS if name in known), None):
        yield from ({name: n} for n in range(getattr(images, name) - 1, 0, -1))
    elif "merge_size" in known and longest and shortest:  # Qwen-VL, GLM-V: areas in pixels
        area = image_tokens * (images.patch_size * images.merge_size) ** 2
        for limit in (images.temporal_patch_size * area, area):  # GLM counts both frames
            limits = {"shortest_edge": min(shortest, limit), "longest_edge": min(longest, limit)}
            yield {"size": limits}
    elif longest:  # Pixtral: side in pixels
        yield from ({"size": {"longest_edge": round(longest * 0.9**n)}} for n in range(1, 30))


# Names of the maximum number of tiles: InternVL, Aya Vision and Ovis 2; Llama 3.2; MiniCPM-V.
_TILE_COUNTS: Final = ("max_patches", "max_image_tiles", "max_slice_nums")


def _set_template_variables(processor: Any, variables: Mapping[str, TemplateValue]) -> None:
    """Set variables at the start of a chat template, so that every rendering uses them.

    Raises:
        BackendError: The template does not have a variable, or it is set by the package.
    """
    if reserved := sorted(_NOT_VARIABLES & variables.keys()):
        raise BackendError(
            f"model.template.{reserved[0]} is set by the package for each prompt. Remove it."
        )
    owner = processor
    if not getattr(processor, "chat_template", None):
        owner = getattr(processor, "tokenizer", processor)
    for name, value in variables.items():
        template = owner.chat_template
        known = _template_variables(template) if isinstance(template, str) else set()
        if name not in known:
            available = f" Available: {', '.join(sorted(known))}." if known else ""
            raise BackendError(
                f"The checkpoint's chat template has no variable {name!r}. Remove "
                f"model.template.{name}.{available}"
            )
        owner.chat_template = f"{{%- set {name} = {json.dumps(value)} -%}}{template}"


def _template_variables(template: str) -> set[str]:
    """Return the variables that a chat template reads and that users may set."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701
    try:
        names = jinja2.meta.find_undeclared_variables(
            environment.parse(_GENERATION_TAG.sub("", template))
        )
    except jinja2.TemplateError:  # rendering reports what is wrong
        return set()
    return names - _NOT_VARIABLES - _TEMPLATE_FUNCTIONS - environment.globals.keys()

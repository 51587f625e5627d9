"""Types of the fields of requests, with the limits that the schema and the checks share."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from mllm_msr.data.times import LAST_MS, misread_milliseconds

_MAX_TEXT_BYTES: Final = 20_000  # in UTF-8; the tokens of a model depend on bytes, not characters

# Numbers that are times between 1991 and 2099 in another unit: seconds, or days of Excel.
_OTHER_UNITS: Final = {
    "anyOf": [
        {"minimum": 662_688_000, "maximum": 4_102_444_799},
        {"minimum": 33_239, "maximum": 73_050},
    ]
}


def _require_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _check_time(milliseconds: int) -> int:
    problem = misread_milliseconds(milliseconds)
    if problem is not None:
        raise ValueError(problem)
    return milliseconds


def _check_text(text: str) -> str:
    n_bytes = len(text.encode("utf-8", "surrogatepass"))
    if n_bytes > _MAX_TEXT_BYTES:
        raise ValueError(
            f"the text has {n_bytes:,} bytes in UTF-8; the limit is {_MAX_TEXT_BYTES:,}. Shorten it"
        )
    return text


def _decode_image(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("the image is not a string. Send its content in base64")  # noqa: TRY004
    if not value.strip():
        raise ValueError("the image is empty. Leave the field out if the item has no image")
    try:
        return base64.b64decode("".join(value.splitlines()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "the image is not in base64. Encode the content of a JPEG, PNG, WebP or GIF file"
        ) from error


def _decode_images(value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    return tuple(map(_decode_image, value)) if isinstance(value, list) else (_decode_image(value),)


def _check_id(text: str) -> str:
    if text != text.strip():
        raise ValueError("the id begins or ends with white space. Remove it")
    return text


# No control characters: ids do not need them, and databases reject some of them. No white space
# around ids, which the ids of datasets lose as well: " u1" would be another user than "u1".
Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    AfterValidator(_check_id),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        }
    ),
]
Title = Annotated[
    str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$"),
    AfterValidator(_check_text),
]
# JSON has one type of numbers, so 5.0 is an integer, but neither true nor "5" is.
Number = Annotated[int, BeforeValidator(_require_number)]
Time = Annotated[
    Number,
    AfterValidator(_check_time),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LAST_MS, "not": _OTHER_UNITS}),
]
_IMAGE_SCHEMA: Final[dict[str, JsonValue]] = {"type": "string", "format": "base64", "minLength": 1}
Images = Annotated[
    tuple[bytes, ...],
    BeforeValidator(_decode_images),
    WithJsonSchema(
        {"anyOf": [_IMAGE_SCHEMA, {"type": "array", "items": _IMAGE_SCHEMA}, {"type": "null"}]}
    ),
]

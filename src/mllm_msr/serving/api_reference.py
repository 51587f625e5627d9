"""API reference at `/docs`: the OpenAPI schema of the service as one page.

The page is rendered here, so that it needs neither scripts nor files of other servers.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from mllm_msr.serving.schema_examples import EXAMPLES

_REF: Final = "#/components/schemas/"
_METHODS: Final = ("get", "post", "delete")


@dataclass(frozen=True, slots=True)
class Field:
    """Field of a body, or parameter of a request.

    Attributes:
        name: Its name.
        kind: Its type as pairs of a text and the name of the schema that it links to, or "".
        required: Whether it must be sent.
        default: Its default as JSON; empty if there is none.
        description: Its description.
        place: "path", "query" or "" for fields of a body.
    """

    name: str
    kind: tuple[tuple[str, str], ...]
    required: bool
    default: str
    description: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """Method of a path.

    Attributes:
        anchor: Id of its heading.
        method: HTTP method in capitals.
        path: Path with parameters in braces.
        group: Heading under which it is listed.
        summary: First sentence of its description.
        description: The other sentences.
        parameters: Its parameters.
        bodies: Names of the schemas of the request body; the client selects one.
        curl: A command that sends the request.
        statuses: Statuses of successful responses.
        response: Name of the schema of this response; "" if it is not JSON.
        example: Example of this response as JSON; "" if there is none.
        errors: Statuses of failures and their names.
    """

    anchor: str
    method: str
    path: str
    group: str
    summary: str
    description: str
    parameters: tuple[Field, ...]
    bodies: tuple[str, ...]
    curl: str
    statuses: tuple[int, ...]
    response: str
    example: str
    errors: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Api:
    """The content of the API reference.

    Attributes:
        groups: The operations by the heading under which they are listed.
        schemas: Description and fields of each object that requests send or return, by name.
    """

    groups: dict[str, list[Operation]]
    schemas: dict[str, tuple[str, list[Field]]]


def describe_api(schema: Mapping[str, Any], *, url: str) -> Api:
    """Return the content of the API reference.

    Args:
        schema: The OpenAPI schema.
        url: URL of the service in the examples.
    """
    groups: dict[str, list[Operation]] = {tag["name"]: [] for tag in schema["tags"]}
    for operation in _operations(schema, url.rstrip("/")):
        groups[operation.group].append(operation)
    schemas = {
        name: (one.get("description", ""), [_field(*field) for field in _properties(one)])
        for name, one in sorted(schema["components"]["schemas"].items())
        if "properties" in one and "ValidationError" not in name
    }
    return Api(groups, schemas)


def render_reference(schema: Mapping[str, Any], *, url: str) -> str:
    """Return the API reference as HTML.

    Args:
        schema: The OpenAPI schema.
        url: URL of the service in the examples.
    """
    api = describe_api(schema, url=url)
    page: str = _template().render(info=schema["info"], groups=api.groups, schemas=api.schemas)
    return page


@functools.cache
def _template() -> Any:
    text = files(__package__).joinpath("page", "docs.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _operations(schema: Mapping[str, Any], url: str) -> Iterator[Operation]:
    for path, methods in schema["paths"].items():
        for method in (one for one in _METHODS if one in methods):
            found = methods[method]
            parameters = found.get("parameters", [])
            bodies = _bodies(found.get("requestBody", {}))
            statuses = {int(status): one for status, one in found["responses"].items()}
            successes = tuple(one for one in sorted(statuses) if one < 300)
            response = _reference(_json_schema(statuses[successes[0]]))
            yield Operation(
                anchor=found["operationId"],
                method=method.upper(),
                path=path,
                group=found["tags"][0],
                summary=found["summary"],
                description=found.get("description", "")
                .removeprefix(found["summary"])
                .lstrip(". "),
                parameters=tuple(
                    _field(one["name"], one["schema"] | one, one["required"], place=one["in"])
                    for one in parameters
                ),
                bodies=bodies,
                curl=_curl(method, url, path, parameters, _example(bodies)),
                statuses=successes,
                response=response,
                example=_as_json(_example((response,))),
                errors=tuple(
                    (one, HTTPStatus(one).phrase) for one in sorted(statuses) if one >= 400
                ),
            )


def _json_schema(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content.get("content", {}).get("application/json", {}).get("schema", {})
    return found


def _reference(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).removeprefix(_REF)


def _bodies(body: Mapping[str, Any]) -> tuple[str, ...]:
    schema = _json_schema(body)
    options = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return tuple(name for option in options if (name := _reference(option)))


def _example(names: tuple[str, ...]) -> Any:
    """Return the first example of the schemas; None if there is none."""
    return next((EXAMPLES[name] for name in names if name in EXAMPLES), None)


def _as_json(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _curl(method: str, url: str, path: str, parameters: list[dict[str, Any]], body: Any) -> str:
    """Return a command that sends a request with example values."""
    values = {
        one["name"]: next((example["value"] for example in one.get("examples", {}).values()), "")
        for one in parameters
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    query = "&".join(
        f"{one['name']}={values[one['name']]}"
        for one in parameters
        if one["in"] == "query" and values[one["name"]]
    )
    words = ["curl", *(["-X", "DELETE"] if method == "delete" else [])]
    words.append(f"{url}{path}{'?' if query else ''}{query}")
    line = shlex.join(words)
    if body is not None:
        line += " \\\n    -H 'Content-Type: application/json' \\\n    -d "
        line += shlex.quote(json.dumps(body, ensure_ascii=False))
    elif method == "post":
        line += " -X POST"
    return line


def _properties(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    required = schema.get("required", ())
    for name, one in schema["properties"].items():
        yield name, one, name in required


def _field(name: str, schema: Mapping[str, Any], required: bool, *, place: str = "") -> Field:
    has_default = "default" in schema and schema["default"] is not None
    return Field(
        name=name,
        kind=tuple(_kind(schema)),
        required=required,
        default=json.dumps(schema["default"]) if has_default else "",
        description=schema.get("description", ""),
        place=place,
    )


def _kind(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parts of the type of a field: a text, and the schema that it links to."""
    if name := _reference(schema):
        yield name, name
    elif "anyOf" in schema:
        for index, option in enumerate(schema["anyOf"]):
            if index:
                yield " or ", ""
            yield from _kind(option)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        yield " or ".join(json.dumps(value) for value in values), ""
    elif schema.get("type") == "array":
        yield "array of ", ""
        yield from _kind(schema["items"])
    else:
        yield schema.get("type", "any"), ""

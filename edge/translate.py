"""From an HTTP call to the parts of a request."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, RootModel, ValidationError

from agents.catalogue import Operation
from edge import codings
from schemas.faults import ErrorEntry, Invalid, UnsupportedMediaType, from_validation, json_path
from schemas.marks import MessageOnly
from schemas.shapes import shape_of
from topics import json
from topics.envelope import JSON, InvalidMessage


class Content(NamedTuple):
    """A body as it was sent, with what its headers say of it."""

    body: bytes
    kind: str = ""
    """Its `Content-Type`."""
    codings: str = ""
    """Its `Content-Encoding`."""


def parts_of(operation: Operation, places: Mapping[str, str], query: bytes, content: Content) -> dict[str, Any]:
    """`places` are the path's values, still percent-encoded. Raises Invalid with all faults at once, TooLarge,
    UnsupportedContentCoding and UnsupportedMediaType."""
    models = operation.request.parts()
    parts: dict[str, Any] = {}
    if "path" in models:
        parts["path"] = _typed(models["path"], {name: _decoded(name, value) for name, value in places.items()})
    if query:
        parts["query"] = _typed(models["query"], _query(query)) if "query" in models else _query(query)
    if "body" in models:
        parts["body"] = _body(models["body"], content)
    elif content.body:
        raise Invalid("body_refused", "This operation takes no body.")
    _validate(operation, parts)
    return parts


def _validate(operation: Operation, parts: dict[str, Any]) -> None:
    entries: list[ErrorEntry] = []
    try:
        operation.request.model_validate(parts)
    except ValidationError as error:
        entries.extend(from_validation(error).entries)
    given = parts.get("body")
    refused = message_only(operation) & given.keys() if isinstance(given, dict) else ()
    entries.extend(
        ErrorEntry(code="unknown_field", type="validation", field=name, message="This field is not known here.")
        for name in sorted(refused)
    )
    if entries:
        raise Invalid.because(entries)


def _decoded(name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Invalid("not_utf8", "This part of the path is not percent-encoded UTF-8.", field=name) from None


@cache
def message_only(operation: Operation) -> frozenset[str]:
    """The body fields that only a message may carry, by their names on the wire."""
    body = operation.request.parts().get("body")
    fields = body.model_fields.values() if body else ()
    return frozenset(
        field.serialization_alias or ""
        for field in fields
        if any(isinstance(mark, MessageOnly) for mark in field.metadata)
    )


def _query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Invalid("unreadable_query", "The query is not percent-encoded UTF-8.") from None
    _refuse_repeated(name for name, _ in pairs)
    return dict(pairs)


def _refuse_repeated(found: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise Invalid("repeated_parameter", "This parameter may stand once.", field=json_path([name]))
        seen.add(name)


def _typed(model: type[BaseModel], texts: Mapping[str, str]) -> dict[str, Any]:
    """Texts as the numbers and booleans that they spell, where the field is one; the rest is left to validation."""
    bases = {field.serialization_alias: shape_of(field.annotation).base for field in model.model_fields.values()}
    return {name: _value(bases.get(name), text) for name, text in texts.items()}


def _value(base: type | None, text: str) -> Any:
    if base is bool and text in ("true", "false"):
        return text == "true"
    if base is int and _INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    return text


_INTEGER = re.compile(r"-?[0-9]{1,24}(\.0+)?")
"""25.0 is an integer, as in a body: links in the result of a message repeat the message's own query."""


@cache
def needs_body(model: type[BaseModel]) -> bool:
    """Whether a call without a body lacks something. An array is never made up, or no body would empty a list."""
    return issubclass(model, RootModel) or any(field.is_required() for field in model.model_fields.values())


def _body(model: type[BaseModel], content: Content) -> Any:
    """A call without a body counts as one with an empty object, whatever its headers say: many clients send a content
    type with every call. `null` is no body, since axios sends it for none."""
    is_array = issubclass(model, RootModel)
    found = _json(content) if content.body else None
    if found is None and is_array:
        raise Invalid("body_required", "This operation needs a body, a JSON array.")
    if found is None:
        return {}
    if not isinstance(found, list if is_array else dict):
        what = "array" if is_array else "object"
        raise Invalid(f"not_an_{what}", f"The body is not a JSON {what}.")
    return found


def _json(content: Content) -> Any:
    if content.kind.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType("unsupported_media_type", f"The body's content type is {JSON}.")
    try:
        return json.read(codings.decoded(content.body, content.codings))
    except InvalidMessage as error:
        raise Invalid(error.code, str(error)) from None

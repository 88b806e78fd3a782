"""Translates an HTTP call to the parts of a request: path, query and body."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, RootModel, ValidationError

from agents.catalogue import Operation
from edge import codings
from schemas.faults import ErrorEntry, Invalid, UnsupportedMediaType, from_validation, json_path
from schemas.marks import MessageOnly
from schemas.model import NoFields
from schemas.shapes import shape_of
from topics import json
from topics.envelope import JSON, InvalidMessage

MERGE_PATCH = "application/merge-patch+json"


class Content(NamedTuple):
    """The body as it was sent, with the headers that describe it."""

    body: bytes
    content_type: str = ""
    content_encoding: str = ""


def parts_of(operation: Operation, path_params: Mapping[str, str], query: bytes, content: Content) -> dict[str, Any]:
    """The parts of the request. `path_params` are still percent-encoded. Raises Invalid with all errors that validation
    finds, TooLarge, UnsupportedContentCoding and UnsupportedMediaType."""
    models = operation.request.parts()
    parts: dict[str, Any] = {}
    if "path" in models:
        values = {name: _decode_path_param(name, value) for name, value in path_params.items()}
        parts["path"] = _parse_values(models["path"], values)
    if query:
        values = _parse_query(query)
        parts["query"] = _parse_values(models["query"], values) if "query" in models else values
    if "body" in models:
        parts["body"] = _parse_body(models["body"], content, media_types(operation))
    elif content.body:
        raise Invalid("body_refused", "This operation takes no body. Send the call without one.")
    _validate(operation, parts)
    return parts


def _validate(operation: Operation, parts: dict[str, Any]) -> None:
    entries: list[ErrorEntry] = []
    try:
        operation.request.model_validate(parts)
    except ValidationError as error:
        entries.extend(from_validation(error).entries)
    body = parts.get("body")
    if isinstance(body, dict):
        entries.extend(
            ErrorEntry(
                code="unknown_field", type="validation", field=name, message="This field does not exist. Remove it."
            )
            for name in sorted(message_only(operation) & body.keys())
        )
    if entries:
        raise Invalid.because(entries)


def _decode_path_param(name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Invalid("not_utf8", "Send this path parameter as percent-encoded UTF-8.", field=name) from None


def message_only(operation: Operation) -> frozenset[str]:
    """The wire names of the body fields that are accepted in a Kafka message but not over HTTP."""
    return _message_only(operation.request.parts().get("body", NoFields))


@cache
def _message_only(body: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        field.serialization_alias or ""
        for field in body.model_fields.values()
        if any(isinstance(mark, MessageOnly) for mark in field.metadata)
    )


def _parse_query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Invalid("unreadable_query", "Send the query as percent-encoded UTF-8.") from None
    _refuse_repeated(name for name, _ in pairs)
    return dict(pairs)


def _refuse_repeated(parameters: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in parameters:
        if name in seen:
            raise Invalid("repeated_parameter", "Send this parameter only once.", field=json_path([name]))
        seen.add(name)


def _parse_values(model: type[BaseModel], values: Mapping[str, str]) -> dict[str, Any]:
    """Converts the values of integer and boolean fields from text. Text that is not an integer or a boolean stays as it
    is, and validation reports it."""
    types = _types(model)
    return {name: _parse_value(types.get(name), value) for name, value in values.items()}


@cache
def _types(model: type[BaseModel]) -> Mapping[str | None, type]:
    """The types of the fields, by their wire names."""
    return {field.serialization_alias: shape_of(field.annotation).base for field in model.model_fields.values()}


def _parse_value(field_type: type | None, value: str) -> Any:
    if field_type is bool and value in ("true", "false"):
        return value == "true"
    if field_type is int and _INTEGER.fullmatch(value):
        return int(value.partition(".")[0])
    return value


_INTEGER = re.compile(r"-?[0-9]{1,24}(\.0+)?")
"""An integer may be written as 25.0, as in a body. The query of a message may have 25.0, and the links in its result
repeat that query."""


def needs_body(model: type[BaseModel]) -> bool:
    """True if a call without a body is invalid. A missing body counts as an empty object, but never as an empty array:
    it would empty the list that the body replaces."""
    return issubclass(model, RootModel) or any(field.is_required() for field in model.model_fields.values())


def media_types(operation: Operation) -> Sequence[str]:
    """The content types of the operation's body. A PATCH with an object merges it into the record (RFC 7396)."""
    body = operation.request.parts().get("body")
    merges = operation.method == "PATCH" and body is not None and not issubclass(body, RootModel)
    return (JSON, MERGE_PATCH) if merges else (JSON,)


def _parse_body(model: type[BaseModel], content: Content, accepted: Sequence[str]) -> Any:
    """A missing body counts as an empty object, whatever the content type, because many clients send a content type
    with every call. `null` counts as a missing body, because axios sends it instead of none."""
    body = _read_json(content, accepted) if content.body else None
    if issubclass(model, RootModel):
        return _check_array(body)
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise Invalid("not_an_object", "The body must be a JSON object.")
    return body


def _check_array(body: Any) -> list[Any]:
    if body is None:
        raise Invalid("body_required", "This operation needs a body, a JSON array.")
    if not isinstance(body, list):
        raise Invalid("not_an_array", "The body must be a JSON array.")
    return body


def _read_json(content: Content, accepted: Sequence[str]) -> Any:
    if content.content_type.partition(";")[0].strip().lower() not in accepted:
        raise UnsupportedMediaType(
            "unsupported_media_type", f"Send the body with the content type {' or '.join(accepted)}."
        )
    try:
        return json.read(codings.decode(content.body, content.content_encoding))
    except InvalidMessage as error:
        raise Invalid(error.code, str(error)) from None

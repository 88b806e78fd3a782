"""Makes HTTP responses."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from edge import codings, conditional
from edge import headers as http_headers
from edge.reply_router import Reply
from schemas.faults import Fault
from topics import json
from topics.envelope import JSON

Headers = Mapping[str, str]


def of_json(status: int, body: bytes | None, headers: Headers, accept_encoding: str) -> Response:
    """The response with a body of JSON, compressed if the caller accepts it and the body is large enough."""
    fields = {**http_headers.OF_ALL_ANSWERS, **http_headers.BY_STATUS.get(status, {}), **headers}
    if body is None:
        return Response(None, status, fields)
    fields["Vary"] = "Accept-Encoding"
    if codings.is_worth_compressing(body, accept_encoding):
        body = codings.compress(body)
        fields["Content-Encoding"] = codings.GZIP
        if "ETag" in fields:
            fields["ETag"] = conditional.tag_of_compressed(fields["ETag"])
    return Response(body, status, fields, media_type=JSON)


def of_reply(reply: Reply, headers: Headers, accept_encoding: str) -> Response:
    """The response with the worker's reply. A reply whose body is null has no body."""
    return of_json(reply.status, None if reply.body == b"null" else reply.body, headers, accept_encoding)


def of_data(status: int, data: Any, headers: Headers | None = None) -> Response:
    return of_json(status, json.write(data), headers or {}, "")


def of_fault(fault: Fault, headers: Headers | None = None) -> Response:
    return of_data(fault.status, fault.body(), {**http_headers.for_fault(fault), **(headers or {})})

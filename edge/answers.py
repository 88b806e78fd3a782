"""Makes HTTP responses."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from agents.catalogue import Operation
from edge import codings, conditional, links
from edge import headers as http_headers
from edge.reply_router import Reply
from schemas.faults import Fault
from schemas.replies import envelope
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


def of_read(
    operation: Operation, request: Request, query: Mapping[str, Any], reply: Reply, headers: Headers
) -> Response:
    """The response to a read. `query` are the parameters of the call. Raises PreconditionFailed, Invalid."""
    fields = dict(headers)
    if reply.status == HTTPStatus.OK and reply.revision is not None:
        fields["ETag"] = conditional.tag_of(reply.revision, reply.body)
        conditional.require(fields["ETag"], request.headers.getlist("if-match"))
        if conditional.is_cached(fields["ETag"], request.headers.getlist("if-none-match")):
            return of_json(HTTPStatus.NOT_MODIFIED, None, fields | {"Vary": "Accept-Encoding"}, "")
    if reply.more is not None:
        fields |= links.header(operation, request.scope["raw_path"].decode(), query, more=reply.more)
    return of_json(reply.status, reply.body, fields, request.headers.get("accept-encoding", ""))


def of_write(
    operation: Operation, reader: Operation | None, request: Request, reply: Reply, headers: Headers
) -> Response:
    """The response to a write. `reader` is the operation that reads the record which was written."""
    body = None if reply.body == b"null" else reply.body
    fields = dict(headers)
    if reply.status == HTTPStatus.CREATED and reader is not None:
        fields["Location"] = links.location(reader, request.path_params, reply.body)
    # After a delete there is no record to have an ETag.
    if reply.status < HTTPStatus.MULTIPLE_CHOICES and reply.revision is not None and operation.method != "DELETE":
        fields["ETag"] = conditional.tag_of(reply.revision, body)
    return of_json(reply.status, body, fields, request.headers.get("accept-encoding", ""))


def of_stored_answer(request_id: str, reply: Reply, headers: Headers, accept_encoding: str) -> Response:
    """The response with the answer to an earlier write. While there is none, the caller may ask again."""
    if reply.status != HTTPStatus.OK:
        return of_json(reply.status, reply.body, {"Retry-After": "1", **headers}, accept_encoding)
    answer = json.read(reply.body)
    body = None if answer["body"] is None else orjson.Fragment(answer["body"])
    data = {"requestId": request_id, "status": answer["status"], "body": body}
    return of_json(HTTPStatus.OK, json.write(envelope(data)), headers, accept_encoding)


def of_data(status: int, data: Any, headers: Headers | None = None) -> Response:
    return of_json(status, json.write(data), headers or {}, "")


def of_fault(fault: Fault, headers: Headers | None = None) -> Response:
    return of_data(fault.status, fault.body(), {**http_headers.for_fault(fault), **(headers or {})})

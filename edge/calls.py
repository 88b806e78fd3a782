"""Answers the calls of operations: sends each as a request message, and makes the response from the reply."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from agents.catalogue import Catalogue, Operation
from edge import answers, bodies, conditional, idempotency, preferences, refusals, scopes, translate
from edge import headers as http_headers
from edge.authentication import Authentication
from edge.callers import UNTIL_SENT, Callers, Held
from edge.identity import Identity
from edge.reply_router import Reply, ReplyRouter
from edge.routing import Endpoint
from edge.settings import HttpSettings
from schemas.faults import (
    Bug,
    Fault,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    RateLimited,
    Unavailable,
)
from schemas.replies import envelope
from telemetry import traces
from telemetry.metrics import HTTP_CALLS, HTTP_DURATION
from topics import json, names
from topics.envelope import JSON, RequestHeaders
from topics.kafka import Outgoing
from topics.traceparent import read_traceparent

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 0.1
"""After a wait of this length, the edge checks whether the caller is still there."""
STORED_ANSWER = "answers.get"
STORED_ANSWERS = "/requests/{family}/{idempotencyKey}"


@dataclass(frozen=True)
class _Call:
    """A call of a caller that is known. The work may set header `fields`, which an answer has even if the work raises a
    fault."""

    request: Request
    identity: Identity
    held: Held
    fields: dict[str, str]


_Work = Callable[[_Call], Awaitable[Response]]


class Calls:
    """The calls of all operations of one edge."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: HttpSettings,
        authentication: Authentication,
        callers: Callers,
        router: ReplyRouter,
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._authentication = authentication
        self._callers = callers
        self._router = router

    def endpoint(self, operation: Operation) -> Endpoint:
        """The endpoint of an operation's route."""
        family = self._catalogue.family_of[operation.name]
        required = scopes.required(operation.name, family, reads=operation.is_query)

        async def answer(request: Request) -> Response:
            return await self._for_caller(operation.name, request, partial(self._answer, operation, required))

        return _measured(operation.name, f"{operation.method} {operation.path}", answer)

    @property
    def stored_answers(self) -> Endpoint:
        """The endpoint of STORED_ANSWERS, where the caller of an asynchronous write finds its answer."""

        async def answer(request: Request) -> Response:
            return await self._for_caller(STORED_ANSWER, request, self._stored_answer)

        return _measured(STORED_ANSWER, f"GET {STORED_ANSWERS}", answer)

    async def _for_caller(self, name: str, request: Request, work: _Work) -> Response:
        """Identify and count the caller, and do the work. A fault is an answer, with the fields that the work has
        set. The call is in flight until its answer is sent."""
        fields: dict[str, str] = {}
        identity = None
        try:
            identity = self._authentication.identify(request.headers.get("authorization"))
            self._callers.count(identity, fields)
            held = request.scope[UNTIL_SENT].enter_context(self._callers.in_flight(identity))
            held.add(_header_bytes(request))
            response = await work(_Call(request, identity, held, fields))
            _hold_answer(held, request, response)
            return response
        except Fault as fault:
            refusals.log(name, identity, fault, visitors=_uuids(request.path_params.get("visitorId")))
            return answers.of_fault(fault, fields)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            return _bug(name, request, fields)

    async def _stored_answer(self, call: _Call) -> Response:
        identity = call.identity
        family, key = (unquote(value) for value in call.request.path_params.values())
        if family not in self._catalogue.families:
            raise NotFound("route_not_found", "There is no such family.")
        # Reading the answer is the same as repeating the call, so that it needs such a scope.
        if identity.scopes.isdisjoint(scopes.of_writes(family)):
            identity.require_scopes(frozenset((f"{family}:write",)))
        path = {"topic": names.requests(family), "source": identity.source, "requestId": f"{identity.name}/{key}"}
        headers = RequestHeaders(str(uuid4()), STORED_ANSWER, identity.source, JSON)
        operation = self._catalogue.by_name[STORED_ANSWER]
        reply = await self._query(operation, headers, self._message(operation, headers, {"path": path}), call)
        accept_encoding = call.request.headers.get("accept-encoding", "")
        return answers.of_stored_answer(path["requestId"], reply, call.fields, accept_encoding)

    async def ask(self, name: str, parts: dict[str, Any]) -> Any:
        """The answer to an internal query of the edge itself. Raises NoAnswer, Unavailable."""
        headers = RequestHeaders(str(uuid4()), name, "edge", JSON)
        operation = self._catalogue.by_name[name]
        message = self._message(operation, headers, parts)
        reply = await self._request_reply(operation, headers, message, self._settings.timeout_seconds)
        if reply.status != 200:
            raise Unavailable("not_available", "The service cannot answer this now. Try again in a moment.")
        return json.read(reply.body)

    async def _answer(self, operation: Operation, required: frozenset[str], call: _Call) -> Response:
        call.identity.require_scopes(required)
        if operation.is_query:
            return await self._read(operation, call)
        # The header is checked before the body is read: a caller that waits for "100 Continue" need not send it.
        key = idempotency.read(call.request.headers.getlist(http_headers.IDEMPOTENCY_KEY))
        # Error answers have the key too, so that a caller without a key of its own can repeat the call.
        call.fields[http_headers.IDEMPOTENCY_KEY] = key.header
        return await self._write(operation, call, key.value)

    async def _read(self, operation: Operation, call: _Call) -> Response:
        if "if-match" in call.request.headers and operation.name not in self._catalogue.table_of:
            raise _no_etag(operation)
        headers = _request_headers(operation, call, str(uuid4()))
        message, query = await self._received(operation, headers, call)
        reply = await self._query(operation, headers, message, call)
        return answers.of_read(operation, call.request, query, reply, call.fields)

    async def _query(self, operation: Operation, headers: RequestHeaders, message: Outgoing, call: _Call) -> Reply:
        """Send the query when it is the caller's turn, unless the caller has left by then, and wait for its reply.
        Raises ClientDisconnect, NoAnswer, RateLimited, Unavailable."""
        seconds, arrived_at = self._settings.timeout_seconds, time.monotonic()
        async with self._callers.read_turn(call.identity, seconds):
            waited = time.monotonic() - arrived_at
            if waited > PATIENCE_SECONDS and await call.request.is_disconnected():
                raise ClientDisconnect
            return await self._request_reply(operation, headers, message, seconds - waited)

    async def _write(self, operation: Operation, call: _Call, key: str) -> Response:
        family = self._catalogue.family_of[operation.name]
        wish = preferences.read(call.request.headers.getlist("prefer"))
        if_match = self._expected_revisions(operation, call.request)
        headers = _request_headers(operation, call, key)._replace(if_match=if_match)
        message, _ = await self._received(operation, headers, call)
        if wish.respond_async and not wish.wait:
            await self._router.send(message._replace(headers=headers.encode()))
            return _accepted(family, headers, call.fields)
        timeout = self._settings.timeout_seconds
        if wish.respond_async and wish.wait:
            timeout = min(wish.wait, timeout)
        try:
            reply = await self._request_reply(operation, headers, message, timeout)
        except NoAnswer:
            if wish.respond_async:
                return _accepted(family, headers, call.fields)
            raise
        reader = self._catalogue.reader_of.get(operation.name)
        return answers.of_write(operation, reader, call.request, reply, call.fields)

    async def _received(
        self, operation: Operation, headers: RequestHeaders, call: _Call
    ) -> tuple[Outgoing, Mapping[str, Any]]:
        """The message with the request, and the parameters of its query. The parsed body, which may take twenty times
        the memory of its text, ends here. Raises Fault, ClientDisconnect."""
        body = await bodies.read(call.request, names.VALUE_LIMIT, call.held)
        parts = _parts(operation, call.request, body)
        call.identity.require_center(operation.name, parts)
        message = self._message(operation, headers, parts)
        call.held.add(len(message.value or b"") - len(body))
        return message, parts.get("query", {})

    def _expected_revisions(self, operation: Operation, request: Request) -> tuple[int, ...] | None:
        """The revisions of which the record must have one; None if it may have any. A precondition that the service
        cannot check counts as false, so that nobody relies on it in vain. Raises Invalid, PreconditionFailed."""
        has_if_match = "if-match" in request.headers
        if "if-none-match" in request.headers or (has_if_match and not self._catalogue.takes_if_match(operation)):
            raise _no_etag(operation)
        return conditional.expected_revisions(request.headers.getlist("if-match")) if has_if_match else None

    async def _request_reply(
        self, operation: Operation, headers: RequestHeaders, message: Outgoing, timeout: float
    ) -> Reply:
        """Send the request and wait for its reply. The message gets these headers, with the address of the reply.
        Raises NoAnswer, Unavailable."""
        if operation.is_query:
            headers = headers._replace(expires=datetime.now(UTC) + timedelta(seconds=timeout))
        addressed, reply = self._router.expect(headers)
        try:
            async with asyncio.timeout(timeout):
                await self._router.send(message._replace(headers=addressed.encode()))
                return await reply
        except TimeoutError:
            advice = "Repeat the call."
            if not operation.is_query:
                advice = f"Repeat the call with the same {http_headers.IDEMPOTENCY_KEY} to get the answer."
            raise NoAnswer("no_answer", f"No answer came in time. {advice}") from None
        finally:
            reply.cancel()

    def _message(self, operation: Operation, headers: RequestHeaders, parts: dict[str, Any]) -> Outgoing:
        """The message with the request, still without headers."""
        topic = self._catalogue.topic_of[operation.name]
        # Requests with the same record key go to the same partition and stay in order.
        record_key = (operation.record_key(parts) or headers.request_id).encode()
        return Outgoing(topic, json.write(parts), record_key, headers=[])


def _measured(name: str, route: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose calls are counted, measured, traced, and logged if they fail. `route` has method and path."""
    seconds = HTTP_DURATION.labels(name)
    traced = _traced(route, endpoint)

    async def answer(request: Request) -> Response:
        started_at = time.perf_counter()
        response = await (traced(request) if traces.is_enabled() else endpoint(request))
        seconds.observe(time.perf_counter() - started_at)
        HTTP_CALLS.labels(name, response.status_code).inc()
        if response.status_code >= 500:
            call_id = request.scope[http_headers.CALL_ID]
            log.warning("call_failed", operation=name, status=response.status_code, call_id=call_id)
        return response

    return answer


def _traced(route: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint with a span for each call, whose message continues the trace of that span."""
    method, path = route.split()

    async def answer(request: Request) -> Response:
        attributes = {"http.request.method": method, "http.route": path}
        with traces.server(route, attributes, _traceparent(request)) as span:
            response = await endpoint(request)
            if span is not None:
                span.set_attribute("http.response.status_code", response.status_code)
                if response.status_code >= 500:
                    traces.fail(span, str(response.status_code))
        return response

    return answer


def _uuids(text: str | None) -> list[UUID]:
    """The UUID in a path. Other text may be anything, such as an email address."""
    try:
        return [] if text is None else [UUID(text)]
    except ValueError:
        return []


def _hold_answer(held: Held, request: Request, response: Response) -> None:
    """Raises RateLimited if the caller has no room for the answer to a read, else Unavailable: a write may be applied,
    and a call with 429 is not."""
    try:
        held.add(len(response.body))
    except (RateLimited, Unavailable) as fault:
        if request.method in ("GET", "HEAD"):
            raise
        advice = f"Repeat the call with the same {http_headers.IDEMPOTENCY_KEY} to get it."
        raise Unavailable("edge_full", f"The edge has no memory left for the answer. {advice}") from fault


def _bug(name: str, request: Request, fields: dict[str, str]) -> Response:
    """Log the exception that is being handled. Returns the answer."""
    log.exception("bug", operation=name, call_id=request.scope[http_headers.CALL_ID])
    return answers.of_fault(Bug("internal", "The service failed unexpectedly and reported the error."), fields)


def _no_etag(operation: Operation) -> PreconditionFailed:
    return PreconditionFailed(
        "no_precondition", f"{operation.name} cannot check this precondition. Send the call without it."
    )


def _accepted(family: str, headers: RequestHeaders, fields: dict[str, str]) -> Response:
    """The answer to a write that is not answered yet."""
    key = quote(headers.request_id.partition("/")[2], safe="")
    added = {"Preference-Applied": "respond-async", "Location": f"/requests/{family}/{key}"}
    return answers.of_data(202, envelope({"requestId": headers.request_id}), fields | added)


def _request_headers(operation: Operation, call: _Call, key: str) -> RequestHeaders:
    return RequestHeaders(
        request_id=f"{call.identity.name}/{key}",
        operation=operation.name,
        source=call.identity.source,
        content_type=JSON,
        traceparent=traces.current_traceparent() or _traceparent(call.request),
    )


def _traceparent(request: Request) -> str | None:
    """None if the call has several different values: it is unknown which of them is right. W3C's test suite expects
    this."""
    values = {value for name, value in request.scope["headers"] if name == b"traceparent"}
    return read_traceparent(values.pop()) if len(values) == 1 else None


def _parts(operation: Operation, request: Request, body: bytes) -> dict[str, Any]:
    """The parts of the request. Raises Invalid, TooLarge, UnsupportedContentCoding and UnsupportedMediaType."""
    codings = ",".join(request.headers.getlist("content-encoding"))
    content = translate.Content(body, request.headers.get("content-type", ""), codings)
    return translate.parts_of(operation, request.scope["path_params"], request.scope["query_string"], content)


def _header_bytes(request: Request) -> int:
    scope = request.scope
    target = len(scope["raw_path"]) + len(scope["query_string"])
    return target + sum(len(name) + len(value) for name, value in scope["headers"])

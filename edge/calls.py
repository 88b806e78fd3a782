"""Answers the calls of operations: sends each as a request message, and makes the response from the reply."""

import asyncio
import time
from collections.abc import Awaitable, Callable
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
from edge.callers import Callers
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

_Work = Callable[[Identity, dict[str, str]], Awaitable[Response]]
"""Answers a call of this caller. It may set header fields, which an answer has even if the work raises a fault."""


class Calls:
    """The calls of all operations of one edge."""

    def __init__(
        self, catalogue: Catalogue, settings: HttpSettings, authentication: Authentication, router: ReplyRouter
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._authentication = authentication
        self._router = router
        self._callers = Callers(settings)

    def endpoint(self, operation: Operation) -> Endpoint:
        """The endpoint of an operation's route."""
        family = self._catalogue.family_of[operation.name]
        required = scopes.required(operation.name, family, reads=operation.is_query)

        async def answer(request: Request) -> Response:
            work = partial(self._answer, operation, required, request)
            return await self._for_caller(operation.name, request, work)

        return _measured(operation.name, f"{operation.method} {operation.path}", answer)

    @property
    def stored_answers(self) -> Endpoint:
        """The endpoint of STORED_ANSWERS, where the caller of an asynchronous write finds its answer."""

        async def answer(request: Request) -> Response:
            return await self._for_caller(STORED_ANSWER, request, partial(self._stored_answer, request))

        return _measured(STORED_ANSWER, f"GET {STORED_ANSWERS}", answer)

    async def _for_caller(self, name: str, request: Request, work: _Work) -> Response:
        """Identify and count the caller, and do the work. A fault is an answer, with the fields that the work has
        set."""
        fields: dict[str, str] = {}
        identity = None
        try:
            identity = self._authentication.identify(request.headers.get("authorization"))
            self._callers.count(identity, fields)
            return await work(identity, fields)
        except Fault as fault:
            refusals.log(name, identity, fault, visitors=_uuids(request.path_params.get("visitorId")))
            return answers.of_fault(fault, fields)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            return _bug(name, request, fields)

    async def _stored_answer(self, request: Request, identity: Identity, fields: dict[str, str]) -> Response:
        family, key = (unquote(value) for value in request.path_params.values())
        if family not in self._catalogue.families:
            raise NotFound("route_not_found", "There is no such family.")
        # Reading the answer is the same as repeating the call, so that it needs such a scope.
        if identity.scopes.isdisjoint(scopes.of_writes(family)):
            identity.require_scopes(frozenset((f"{family}:write",)))
        path = {"topic": names.requests(family), "source": identity.source, "requestId": f"{identity.name}/{key}"}
        headers = RequestHeaders(str(uuid4()), STORED_ANSWER, identity.source, JSON)
        reply = await self._query(self._catalogue.by_name[STORED_ANSWER], headers, {"path": path}, request, identity)
        accept_encoding = request.headers.get("accept-encoding", "")
        return answers.of_stored_answer(path["requestId"], reply, fields, accept_encoding)

    async def ask(self, name: str, parts: dict[str, Any]) -> Any:
        """The answer to an internal query of the edge itself. Raises NoAnswer, Unavailable."""
        headers = RequestHeaders(str(uuid4()), name, "edge", JSON)
        operation = self._catalogue.by_name[name]
        reply = await self._request_reply(operation, headers, parts, self._settings.timeout_seconds)
        if reply.status != 200:
            raise Unavailable("not_available", "The service cannot answer this now. Try again in a moment.")
        return json.read(reply.body)

    async def _answer(
        self,
        operation: Operation,
        required: frozenset[str],
        request: Request,
        identity: Identity,
        fields: dict[str, str],
    ) -> Response:
        identity.require_scopes(required)
        if operation.is_query:
            return await self._read(operation, request, identity, fields)
        # The header is checked before the body is read: a caller that waits for "100 Continue" need not send it.
        key = idempotency.read(request.headers.getlist(http_headers.IDEMPOTENCY_KEY))
        # Error answers have the key too, so that a caller without a key of its own can repeat the call.
        fields[http_headers.IDEMPOTENCY_KEY] = key.header
        return await self._write(operation, request, identity, key.value, fields)

    async def _read(
        self, operation: Operation, request: Request, identity: Identity, fields: dict[str, str]
    ) -> Response:
        if "if-match" in request.headers and operation.name not in self._catalogue.table_of:
            raise _no_etag(operation)
        parts = await _read_parts(operation, request)
        identity.require_center(operation.name, parts)
        headers = _request_headers(operation, request, identity, str(uuid4()))
        reply = await self._query(operation, headers, parts, request, identity)
        return answers.of_read(operation, request, parts.get("query", {}), reply, fields)

    async def _query(
        self, operation: Operation, headers: RequestHeaders, parts: dict[str, Any], request: Request, identity: Identity
    ) -> Reply:
        """Send the query when it is the caller's turn, unless the caller has left by then, and wait for its reply.
        Raises ClientDisconnect, NoAnswer, RateLimited, Unavailable."""
        seconds, arrived_at = self._settings.timeout_seconds, time.monotonic()
        with self._callers.in_flight(identity):
            async with self._callers.read_turn(identity, seconds):
                waited = time.monotonic() - arrived_at
                if waited > PATIENCE_SECONDS and await request.is_disconnected():
                    raise ClientDisconnect
                return await self._request_reply(operation, headers, parts, seconds - waited)

    async def _write(
        self, operation: Operation, request: Request, identity: Identity, key: str, fields: dict[str, str]
    ) -> Response:
        family = self._catalogue.family_of[operation.name]
        wish = preferences.read(request.headers.getlist("prefer"))
        if_match = self._expected_revisions(operation, request)
        parts = await _read_parts(operation, request)
        identity.require_center(operation.name, parts)
        headers = _request_headers(operation, request, identity, key)._replace(if_match=if_match)
        with self._callers.in_flight(identity):
            if wish.respond_async and not wish.wait:
                await self._router.send(self._message(operation, headers, parts))
                return _accepted(family, headers, fields)
            timeout = self._settings.timeout_seconds
            if wish.respond_async and wish.wait:
                timeout = min(wish.wait, timeout)
            try:
                reply = await self._request_reply(operation, headers, parts, timeout)
            except NoAnswer:
                if wish.respond_async:
                    return _accepted(family, headers, fields)
                raise
        reader = self._catalogue.reader_of.get(operation.name)
        return answers.of_write(operation, reader, request, reply, fields)

    def _expected_revisions(self, operation: Operation, request: Request) -> tuple[int, ...] | None:
        """The revisions of which the record must have one; None if it may have any. A precondition that the service
        cannot check counts as false, so that nobody relies on it in vain. Raises Invalid, PreconditionFailed."""
        has_if_match = "if-match" in request.headers
        if "if-none-match" in request.headers or (has_if_match and not self._catalogue.takes_if_match(operation)):
            raise _no_etag(operation)
        return conditional.expected_revisions(request.headers.getlist("if-match")) if has_if_match else None

    async def _request_reply(
        self, operation: Operation, headers: RequestHeaders, parts: dict[str, Any], timeout: float
    ) -> Reply:
        """Send the request and wait for its reply. Raises NoAnswer, Unavailable."""
        if operation.is_query:
            headers = headers._replace(expires=datetime.now(UTC) + timedelta(seconds=timeout))
        addressed, reply = self._router.expect(headers)
        try:
            async with asyncio.timeout(timeout):
                await self._router.send(self._message(operation, addressed, parts))
                return await reply
        except TimeoutError:
            advice = "Repeat the call."
            if not operation.is_query:
                advice = f"Repeat the call with the same {http_headers.IDEMPOTENCY_KEY} to get the answer."
            raise NoAnswer("no_answer", f"No answer came in time. {advice}") from None
        finally:
            reply.cancel()

    def _message(self, operation: Operation, headers: RequestHeaders, parts: dict[str, Any]) -> Outgoing:
        topic = self._catalogue.topic_of[operation.name]
        # Requests with the same record key go to the same partition and stay in order.
        record_key = (operation.record_key(parts) or headers.request_id).encode()
        return Outgoing(topic, json.write(parts), record_key, headers.encode())


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


def _request_headers(operation: Operation, request: Request, identity: Identity, key: str) -> RequestHeaders:
    return RequestHeaders(
        request_id=f"{identity.name}/{key}",
        operation=operation.name,
        source=identity.source,
        content_type=JSON,
        traceparent=traces.current_traceparent() or _traceparent(request),
    )


def _traceparent(request: Request) -> str | None:
    """None if the call has several different values: it is unknown which of them is right. W3C's test suite expects
    this."""
    values = {value for name, value in request.scope["headers"] if name == b"traceparent"}
    return read_traceparent(values.pop()) if len(values) == 1 else None


async def _read_parts(operation: Operation, request: Request) -> dict[str, Any]:
    """The parts of the request. Raises ClientDisconnect, Invalid, TooLarge, UnsupportedContentCoding and
    UnsupportedMediaType."""
    codings = ",".join(request.headers.getlist("content-encoding"))
    body = await bodies.read(request, names.VALUE_LIMIT)
    content = translate.Content(body, request.headers.get("content-type", ""), codings)
    return translate.parts_of(operation, request.scope["path_params"], request.scope["query_string"], content)

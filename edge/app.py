"""The HTTP edge: one route for each operation. It sends each call as a request message and answers with the reply."""

import asyncio
import re
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import structlog
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agents.catalogue import Catalogue, Operation
from edge import headers as http_headers
from edge import keys as api_keys
from edge import openapi, translate
from edge.keys import Identity, Keys
from edge.registry import Registry
from edge.reply_router import Reply, ReplyRouter
from edge.schema_directory import SchemaDirectory
from edge.settings import HttpSettings
from schemas.faults import (
    Bug,
    Fault,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NoAnswer,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
)
from schemas.replies import envelope
from topics import json, names
from topics.envelope import JSON, ReplyTo, RequestHeaders
from topics.kafka import KafkaSettings, Outgoing
from topics.traceparent import read_traceparent

log = structlog.get_logger(__name__)

CALLS = Counter("visitor_http_calls_total", "HTTP calls, by operation and status.", ["operation", "status"])
SECONDS = Histogram("visitor_http_seconds", "Seconds from an HTTP call to its answer.", ["operation"])

Endpoint = Callable[[Request], Awaitable[Response]]


class Edge:
    """The HTTP application and its connection to Kafka. When the edge can no longer work, it sets `failure` to the
    reason and calls `ended`."""

    def __init__(
        self, kafka: KafkaSettings, settings: HttpSettings, catalogue: Catalogue, ended: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        self._ended = ended
        self._settings = settings
        self._catalogue = catalogue
        self._api_keys: Keys = api_keys.load(settings.keys)
        self._router = ReplyRouter(kafka, settings.reply_partition, self._fail)
        self._in_flight: dict[str, int] = {}
        self.app = self._create_app()

    @property
    def asgi(self) -> ASGIApp:
        """The application to serve."""
        app = _RawPaths(self.app)
        if self._settings.keys is None:
            return _LoopbackHosts(app)
        return app

    def _create_app(self) -> FastAPI:
        app = FastAPIOffline(title="Visitor service", docs_url="/docs", redoc_url="/redoc", lifespan=self._lifespan)
        app.router.redirect_slashes = False
        document = openapi.describe(self._catalogue, with_keys=self._settings.keys is not None)
        app.openapi = lambda: document  # type: ignore[method-assign]
        endpoints: dict[str, dict[str, Endpoint]] = {
            "/health": {"GET": self._health}, "/health/live": {"GET": self._live}, "/metrics": {"GET": _metrics},
        }  # fmt: skip
        for operation in self._catalogue.operations:
            endpoints.setdefault(operation.path, {})[operation.method] = self._endpoint(operation)
        for method, path, registry_endpoint in self._registry().routes():
            endpoints.setdefault(path, {})[method] = registry_endpoint
        # "{" sorts after all letters, so /visitors/count comes before /visitors/{visitorId} and is matched first.
        for path in sorted(endpoints):
            app.router.routes.append(Route(path, _Resource(endpoints[path])))
        app.add_exception_handler(HTTPException, _no_route)
        return app

    def _registry(self) -> Registry:
        async def read_after(position: int) -> list[dict[str, Any]]:
            answer: list[dict[str, Any]] = await self._ask("schemas.list", {"after": position})
            return answer

        return Registry(SchemaDirectory(self._catalogue.topic_of_record, read_after), self._api_keys)

    async def _ask(self, name: str, query: dict[str, Any]) -> Any:
        """The answer to an internal query of the edge itself. Raises NoAnswer, Unavailable."""
        headers = RequestHeaders(str(uuid4()), name, "edge", JSON)
        status, body = await self._request_reply(self._catalogue.by_name[name], headers, {"query": query})
        if status != 200:
            raise Unavailable("not_available", "The service cannot answer this now. Try again in a moment.")
        return json.read(body)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._router.start()
        try:
            yield
        finally:
            await self._router.stop()

    def _fail(self, task: str, error: BaseException) -> None:
        log.critical("edge_failed", task=task, error=type(error).__name__, reason=str(error), exc_info=error)
        self.failure = self.failure or error
        self._ended()

    async def _live(self, _: Request) -> Response:
        if self.failure is None:
            return _json(200, {"status": "live"})
        return _json(503, {"status": "failed", "reason": type(self.failure).__name__})

    async def _health(self, _: Request) -> Response:
        if self._router.ready:
            return _json(200, {"status": "ready"})
        return _json(503, {"status": "not ready", "reasons": {"kafka": "no connection"}})

    def _endpoint(self, operation: Operation) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            with SECONDS.labels(operation.name).time():
                response = await self._answer(operation, request)
            CALLS.labels(operation.name, response.status_code).inc()
            return response

        return endpoint

    async def _answer(self, operation: Operation, request: Request) -> Response:
        try:
            identity = self._api_keys.identify(request.headers.get("authorization"))
            family = self._catalogue.family_of[operation.name]
            api_keys.check(identity, family, operation.is_query)
            return await self._call(operation, request, identity)
        except Fault as fault:
            return _fault(fault, _idempotency_header(request))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            log.exception("bug", operation=operation.name)
            return _fault(Bug("internal", "The service failed unexpectedly and reported the error."))

    async def _call(self, operation: Operation, request: Request, identity: Identity) -> Response:
        content = await _read_content(request)
        parts = translate.parts_of(operation, request.path_params, request.scope["query_string"], content)
        idempotency_header = (
            {} if operation.is_query else {http_headers.IDEMPOTENCY_KEY: _read_idempotency_key(request)}
        )
        request.state.idempotency_header = idempotency_header
        idempotency_key = idempotency_header.get(http_headers.IDEMPOTENCY_KEY) or str(uuid4())
        headers = RequestHeaders(
            request_id=f"{identity.name}/{idempotency_key}",
            operation=operation.name,
            source=identity.source,
            content_type=JSON,
            traceparent=_traceparent(request),
        )
        with self._limit_in_flight(identity):
            if not operation.is_query and _prefers_async(request):
                await self._router.send(self._message(operation, headers, parts))
                accepted = envelope({"requestId": headers.request_id})
                return _json(202, accepted, idempotency_header | {"Preference-Applied": "respond-async"})
            status, body = await self._request_reply(operation, headers, parts)
        return _response(status, None if body == b"null" else body, idempotency_header)

    @contextmanager
    def _limit_in_flight(self, identity: Identity) -> Iterator[None]:
        """Count one call of this caller as in flight. Raises RateLimited."""
        limit = self._settings.in_flight
        in_flight = self._in_flight.get(identity.name, 0)
        if in_flight >= limit:
            raise RateLimited("too_many_calls", f"At most {limit} calls may be in flight. Wait for their answers.")
        self._in_flight[identity.name] = in_flight + 1
        try:
            yield
        finally:
            self._in_flight[identity.name] -= 1

    async def _request_reply(self, operation: Operation, headers: RequestHeaders, parts: dict[str, Any]) -> Reply:
        """Send the request and wait for its reply. Raises NoAnswer, Unavailable."""
        partition, correlation, reply = self._router.expect()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                with_reply_to = headers._replace(reply_to=ReplyTo(partition, correlation))
                await self._router.send(self._message(operation, with_reply_to, parts))
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
        record_key = _record_key(operation, parts, headers.request_id)
        return Outgoing(topic, json.write(parts), record_key, headers.encode())


def _record_key(operation: Operation, parts: dict[str, Any], request_id: str) -> bytes:
    """The value of the operation's first partition-key field that the request has, else the request id. Requests with
    the same record key go to the same partition and stay in order."""
    body = parts.get("body")
    fields = (body if isinstance(body, dict) else {}) | parts.get("path", {})
    for name in operation.partition_key:
        if fields.get(name):
            return str(fields[name]).encode()
    return request_id.encode()


def _prefers_async(request: Request) -> bool:
    return "respond-async" in request.headers.get("prefer", "").lower()


_IDEMPOTENCY_KEY = re.compile(http_headers.IDEMPOTENCY_KEY_PATTERN)


def _read_idempotency_key(request: Request) -> str:
    """The caller's idempotency key, or a new one if the caller sent none. Raises Invalid."""
    sent = set(request.headers.getlist(http_headers.IDEMPOTENCY_KEY))
    if not sent:
        return str(uuid4())
    idempotency_key = sent.pop()
    too_long = len(idempotency_key) > http_headers.IDEMPOTENCY_KEY_LIMIT
    if sent or too_long or not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        name, limit = http_headers.IDEMPOTENCY_KEY, http_headers.IDEMPOTENCY_KEY_LIMIT
        message = f"Send one {name} of 1 to {limit} printable ASCII characters."
        raise Invalid("wrong_idempotency_key", message, field=http_headers.IDEMPOTENCY_KEY)
    return idempotency_key


def _traceparent(request: Request) -> str | None:
    """None if the call has several different values: it is unknown which of them is right. W3C's test suite expects
    this."""
    values = {value for name, value in request.headers.raw if name == b"traceparent"}
    return read_traceparent(values.pop()) if len(values) == 1 else None


def _idempotency_header(request: Request) -> dict[str, str]:
    """The header with the idempotency key of a write, empty if the call failed before the key was read. Error answers
    have it too, so that a caller without a key of its own can repeat the call."""
    return getattr(request.state, "idempotency_header", {})


async def _read_content(request: Request) -> translate.Content:
    """Raises TooLarge."""
    codings = ",".join(request.headers.getlist("content-encoding"))
    return translate.Content(await _read_body(request), request.headers.get("content-type", ""), codings)


async def _read_body(request: Request) -> bytes:
    """Raises TooLarge as soon as the body exceeds the limit, so that the rest is not read into memory."""
    body = bytearray()
    async for chunk in request.stream():
        body.extend(chunk)
        if len(body) > names.VALUE_LIMIT:
            raise TooLarge("body_too_large", f"A body may have at most {names.VALUE_LIMIT} bytes.")
    return bytes(body)


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _no_route(_: Request, error: Exception) -> Response:
    """Answers calls that match no route: 405 for the routes of FastAPI itself (/docs), else 404."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _method_not_allowed((error.headers or {})["Allow"].split(", "))
    return _fault(NotFound("route_not_found", "This path does not exist. /docs lists all paths."))


def _method_not_allowed(methods: Collection[str]) -> Response:
    allowed = set(methods)
    if "GET" in allowed:
        allowed.add("HEAD")
    fault = MethodNotAllowed("method_not_allowed", "Use a method that the Allow header lists.")
    return _fault(fault, {"Allow": ", ".join(sorted(allowed))})


def _fault(fault: Fault, extra_headers: Mapping[str, str] | None = None) -> Response:
    return _json(fault.status, fault.body(), {**http_headers.for_fault(fault), **(extra_headers or {})})


def _json(status: int, body: Any, extra_headers: Mapping[str, str] | None = None) -> Response:
    return _response(status, json.write(body), extra_headers)


def _response(status: int, body: bytes | None, extra_headers: Mapping[str, str] | None = None) -> Response:
    all_headers = {**http_headers.BY_STATUS.get(status, {}), **(extra_headers or {})}
    return Response(body, status, all_headers, media_type=None if body is None else JSON)


class _Resource:
    """All methods of one path in one route. With one route per method, a call of `/visitors/partial` with a method
    that this path does not have would match `/visitors/{visitorId}`."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._endpoints.get(request.method)
        response = _method_not_allowed(self._endpoints) if endpoint is None else await endpoint(request)
        await response(scope, receive, send)


_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


class _RawPaths:
    """Routes by the percent-encoded path, so that a path parameter may contain an encoded slash. `translate` decodes
    the parameters. HEAD is routed as GET, and the server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            # A copy, because the server reads the original method to omit the body.
            scope = {**scope, "path": _normalize(scope["raw_path"]), "method": method}
        await self._app(scope, receive, send)


def _normalize(raw_path: bytes) -> str:
    """The equivalent path in which non-ASCII bytes are encoded and unreserved characters are not (RFC 3986, section
    6.2.2.2): `/%63ount` becomes `/count`."""
    return _ENCODED.sub(_decode_unreserved, quote(raw_path, safe=string.printable))


def _decode_unreserved(encoded: re.Match[str]) -> str:
    if encoded[1] is None:
        return "%25"  # a percent sign without two hex digits stands for itself; encode it, so that it stays one
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0]


_LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", re.IGNORECASE)


class _LoopbackHosts:
    """Refuses calls whose Host header does not name loopback. An edge without API keys listens on loopback only, but a
    web page could resolve its own host name to loopback (DNS rebinding) and call the edge from a developer's
    browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not _LOOPBACK_HOST.fullmatch(Headers(scope=scope).get("host", "")):
            app = _fault(
                Forbidden("unknown_host", "Without API keys, call the service as localhost, 127.0.0.1 or [::1].")
            )
        await app(scope, receive, send)

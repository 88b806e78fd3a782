"""The HTTP edge: routes from the catalogue, each call a request message and its answer."""

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
from edge import headers, keys, openapi, translate
from edge.keys import Identity, Keys
from edge.reply_router import Reply, ReplyRouter
from edge.settings import HttpSettings
from schemas.faults import Bug, Fault, Forbidden, Invalid, MethodNotAllowed, NoAnswer, NotFound, RateLimited, TooLarge
from schemas.replies import envelope
from topics import json, names
from topics.envelope import JSON, ReplyTo, RequestHeaders
from topics.kafka import KafkaSettings, Outgoing
from topics.traceparent import read_traceparent

log = structlog.get_logger(__name__)

CALLS = Counter("visitor_http_calls_total", "HTTP calls, by operation and status.", ["operation", "status"])
SECONDS = Histogram("visitor_http_seconds", "From an HTTP call to its answer.", ["operation"])

Endpoint = Callable[[Request], Awaitable[Response]]


class Edge:
    """The HTTP application and its connection to Kafka. `ended` is called once it cannot go on; `failure` says why."""

    def __init__(
        self, kafka: KafkaSettings, settings: HttpSettings, catalogue: Catalogue, ended: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        self._ended = ended
        self._settings = settings
        self._catalogue = catalogue
        self._keys: Keys = keys.load(settings.keys)
        self._router = ReplyRouter(kafka, settings.reply_partition, self._fail)
        self._in_flight: dict[str, int] = {}
        self.app = self._application()

    @property
    def asgi(self) -> ASGIApp:
        """The application to serve."""
        routed = _RawPaths(self.app)
        return _LocalNames(routed) if self._settings.keys is None else routed

    def _application(self) -> FastAPI:
        app = FastAPIOffline(title="Visitor service", docs_url="/docs", redoc_url="/redoc", lifespan=self._lifespan)
        app.router.redirect_slashes = False
        described = openapi.describe(self._catalogue)
        app.openapi = lambda: described  # type: ignore[method-assign]
        paths: dict[str, dict[str, Endpoint]] = {
            "/health": {"GET": self._health}, "/health/live": {"GET": self._live}, "/metrics": {"GET": _metrics},
        }  # fmt: skip
        for operation in self._catalogue.operations:
            paths.setdefault(operation.path, {})[operation.method] = self._endpoint(operation)
        # Static segments before places, so that /visitors/count is never taken for a visitor.
        for path in sorted(paths, key=lambda found: found.replace("{", "~")):
            app.router.routes.append(Route(path, _Resource(paths[path])))
        app.add_exception_handler(HTTPException, _not_routed)
        return app

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
                response = await self._answered(operation, request)
            CALLS.labels(operation.name, response.status_code).inc()
            return response

        return endpoint

    async def _answered(self, operation: Operation, request: Request) -> Response:
        try:
            identity = self._keys.identify(request.headers.get("authorization"))
            family = self._catalogue.family_of[operation.name]
            keys.check(identity, family, operation.is_query)
            return await self._call(operation, request, identity)
        except Fault as fault:
            return _fault(fault, _key_used(request))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            log.exception("bug", operation=operation.name)
            return _fault(Bug("internal", "Something is wrong on our side; it was reported."))

    async def _call(self, operation: Operation, request: Request, identity: Identity) -> Response:
        content = await _content(request)
        parts = translate.parts_of(operation, request.path_params, request.scope["query_string"], content)
        used = {} if operation.is_query else {headers.KEY: _idempotency_key(request)}
        request.state.used = used
        key = used.get(headers.KEY) or str(uuid4())
        head = RequestHeaders(
            request_id=f"{identity.name}/{key}",
            operation=operation.name,
            source=identity.source,
            content_type=JSON,
            traceparent=_traceparent(request),
        )
        with self._waiting(identity):
            if not operation.is_query and "respond-async" in request.headers.get("prefer", "").lower():
                await self._router.send(self._message(operation, head, parts))
                accepted = envelope({"requestId": head.request_id})
                return _json(202, accepted, used | {"Preference-Applied": "respond-async"})
            status, body = await self._reply_to(operation, head, parts)
        return _response(status, None if body == b"null" else body, used)

    @contextmanager
    def _waiting(self, identity: Identity) -> Iterator[None]:
        """Counts a call of this caller. Raises RateLimited."""
        waiting = self._in_flight.get(identity.name, 0)
        if waiting >= self._settings.in_flight:
            raise RateLimited("too_many_calls", f"At most {self._settings.in_flight} calls may wait at once.")
        self._in_flight[identity.name] = waiting + 1
        try:
            yield
        finally:
            self._in_flight[identity.name] -= 1

    async def _reply_to(self, operation: Operation, head: RequestHeaders, parts: dict[str, Any]) -> Reply:
        """The status and the body's JSON. Raises NoAnswer, Unavailable."""
        partition, correlation, reply = self._router.expect()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                addressed = head._replace(reply_to=ReplyTo(partition, correlation))
                await self._router.send(self._message(operation, addressed, parts))
                return await reply
        except TimeoutError:
            how = "Repeat the call" if operation.is_query else f"Repeat the call with the same {headers.KEY} to get it"
            raise NoAnswer("no_answer", f"No answer came in time. {how}.") from None
        finally:
            reply.cancel()

    def _message(self, operation: Operation, head: RequestHeaders, parts: dict[str, Any]) -> Outgoing:
        topic = self._catalogue.topic_of[operation.name]
        return Outgoing(topic, json.write(parts), _partition_key(operation, parts, head.request_id), head.encode())


def _partition_key(operation: Operation, parts: dict[str, Any], request_id: str) -> bytes:
    """Requests with the same key stay in order, because they go to the same partition."""
    body = parts.get("body")
    fields = (body if isinstance(body, dict) else {}) | parts.get("path", {})
    return next((str(fields[name]) for name in operation.partition_key if fields.get(name)), request_id).encode()


_KEY = re.compile(headers.KEY_PATTERN)


def _idempotency_key(request: Request) -> str:
    given = set(request.headers.getlist(headers.KEY))
    if not given:
        return str(uuid4())
    key = given.pop()
    if given or len(key) > headers.KEY_LIMIT or not _KEY.fullmatch(key):
        message = f"{headers.KEY} is one key of 1 to {headers.KEY_LIMIT} printable ASCII characters."
        raise Invalid("wrong_idempotency_key", message, field=headers.KEY)
    return key


def _traceparent(request: Request) -> str | None:
    """None where several differ, as W3C's own test suite wants it: nobody can say which one is meant."""
    given = {value for name, value in request.headers.raw if name == b"traceparent"}
    return read_traceparent(given.pop()) if len(given) == 1 else None


def _key_used(request: Request) -> dict[str, str]:
    """The key of a write that was sent on, so that it can be repeated after an answer that is none."""
    return getattr(request.state, "used", {})


async def _content(request: Request) -> translate.Content:
    """Raises TooLarge."""
    codings = ",".join(request.headers.getlist("content-encoding"))
    return translate.Content(await _read_body(request), request.headers.get("content-type", ""), codings)


async def _read_body(request: Request) -> bytes:
    """Raises TooLarge before more than that is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body.extend(chunk)
        if len(body) > names.VALUE_LIMIT:
            raise TooLarge("body_too_large", f"A body holds at most {names.VALUE_LIMIT} bytes.")
    return bytes(body)


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _not_routed(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _no_method((error.headers or {})["Allow"].split(", "))
    return _fault(NotFound("route_not_found", "There is no such path; see /docs."))


def _no_method(known: Collection[str]) -> Response:
    allowed = {*known, *({"HEAD"} if "GET" in known else ())}
    fault = MethodNotAllowed("method_not_allowed", "This path has no such method.")
    return _fault(fault, {"Allow": ", ".join(sorted(allowed))})


def _fault(fault: Fault, more: Mapping[str, str] | None = None) -> Response:
    return _json(fault.status, fault.body(), {**headers.of(fault), **(more or {})})


def _json(status: int, body: Any, more: Mapping[str, str] | None = None) -> Response:
    return _response(status, json.write(body), more)


def _response(status: int, body: bytes | None, more: Mapping[str, str] | None = None) -> Response:
    answered = {**headers.BY_STATUS.get(status, {}), **(more or {})}
    return Response(body, status, answered, media_type=None if body is None else JSON)


class _Resource:
    """All methods of one path. One route a path: were there one for each method, a method that `/visitors/partial` has
    not would be looked for at `/visitors/{visitorId}`."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._endpoints.get(request.method)
        answer = _no_method(self._endpoints) if endpoint is None else await endpoint(request)
        await answer(scope, receive, send)


_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


class _RawPaths:
    """Routes by the path as it was sent, so that a place may hold an encoded slash; it is decoded once, later. HEAD is
    the GET whose body the server leaves out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            # A copy: the server has to know what it was asked.
            scope = {**scope, "path": _normal(scope["raw_path"]), "method": method}
        await self._app(scope, receive, send)


def _normal(raw: bytes) -> str:
    """A path in which all but ASCII is encoded, and nothing that need not be (RFC 3986, 6.2.2.2): `/%63ount` is
    `/count`. What it means stays the same."""
    return _ENCODED.sub(_plain, quote(raw, safe=string.printable))


def _plain(encoded: re.Match[str]) -> str:
    if encoded[1] is None:
        return "%25"  # a sign that encodes nothing stands for itself, and may encode nothing later either
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0]


_LOCAL_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", re.IGNORECASE)


class _LocalNames:
    """Refuses calls by another name than this machine's own. An edge without keys serves loopback only, but a web page
    could have its name resolved to loopback (DNS rebinding), and its visitor's browser would call us for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not _LOCAL_NAME.fullmatch(Headers(scope=scope).get("host", "")):
            app = _fault(
                Forbidden("unknown_host", "Without keys this service answers to localhost, 127.0.0.1 and [::1].")
            )
        await app(scope, receive, send)
